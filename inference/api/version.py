"""Versions and their onboarding, and what a client must know of the platform."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.selectors import onboarding as onboardings
from inference.selectors.shredding import describe_shred
from inference.selectors.version import describe_version
from inference.services import platform, release_log, shredding
from marketplace.api.authentication import actor_of, require_confirmed
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.models import AIModel, ModelVersion
from marketplace.selectors.access import access_model, access_version
from marketplace.selectors.catalog import get_version


class PlatformView(APIView):
    # Read before anybody has signed in.
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        """Addresses, the platform's key and the limits."""
        return Response(platform.get_platform())


class VersionsView(APIView):
    def get(self, request: Request, owner: str, name: str) -> Response:
        """The versions of an own model, newest first, 100 a page."""
        model = onboardings.access_own_model(actor_of(request), owner, name)
        before = _read_before(request)
        found = list(onboardings.list_versions(model, before=before)[: onboardings.VERSIONS_MAX])
        answer: dict[str, Any] = {"results": [describe_version(version) for version in found]}
        if len(found) == onboardings.VERSIONS_MAX:
            answer["next_before"] = found[-1].number
        return Response(answer)


def _read_before(request: Request) -> int | None:
    text = request.query_params.get("before")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInputError("before must be the number of a version.")
    return int(text)


class ReleaseLogView(APIView):
    def get(self, request: Request, version_id: UUID) -> Response:
        """The release log of an own version, with what is needed to check it."""
        return Response(release_log.export(access_version(actor_of(request), version_id)))


class VersionView(APIView):
    def get(self, request: Request, version_id: UUID) -> Response:
        """One version with its steps."""
        version = access_version(actor_of(request), version_id)
        found = onboardings.with_steps(ModelVersion.objects.filter(pk=version.pk)).get()
        return Response(describe_version(found))


class ShredInput(serializers.Serializer):
    reason = serializers.CharField(max_length=limits.REASON_LENGTH_MAX)


class ShredVersionView(APIView):
    """`POST /api/models/{owner}/{name}/versions/{number}/shred`."""

    def post(self, request: Request, owner: str, name: str, number: int) -> Response:
        """Destroy a version's key for good; needs the right `publish`."""
        version = get_version(_access_model(request, owner, name), number)
        reason = _read_shred(request, version)
        proof = shredding.shred_version(version=version, actor=actor_of(request), reason=reason)
        return Response(describe_shred(proof))


class ShredModelView(APIView):
    """`POST /api/models/{owner}/{name}/shred`."""

    def post(self, request: Request, owner: str, name: str) -> Response:
        """Destroy the keys of all versions for good; needs the right `publish`."""
        model = _access_model(request, owner, name)
        reason = _read_shred(request, model)
        proof = shredding.shred_model(model=model, actor=actor_of(request), reason=reason)
        return Response(describe_shred(proof))


def _access_model(request: Request, owner: str, name: str) -> AIModel:
    actor = actor_of(request)
    return access_model(actor, owner, name, None if actor.is_admin else "publish")


def _read_shred(request: Request, subject: AIModel | ModelVersion) -> str:
    """The reason, if the body names what is to be destroyed, and a session has confirmed it."""
    require_confirmed(request)
    assert isinstance(request.data, dict)  # The parser takes nothing else.
    shredding.check_confirmation(request.data.get("confirm"), subject)
    body = ShredInput(data=request.data)
    body.is_valid(raise_exception=True)
    return str(body.validated_data["reason"])
