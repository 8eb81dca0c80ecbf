"""Versions and their onboarding, and what a client must know of the platform."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.selectors import onboarding as onboardings
from inference.selectors.version import describe_version
from inference.services import platform
from marketplace.api.authentication import actor_of
from marketplace.core.errors import InvalidInputError
from marketplace.models import ModelVersion
from marketplace.selectors.access import access_version


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


class VersionView(APIView):
    def get(self, request: Request, version_id: UUID) -> Response:
        """One version with its steps."""
        version = access_version(actor_of(request), version_id)
        found = onboardings.with_steps(ModelVersion.objects.filter(pk=version.pk)).get()
        return Response(describe_version(found))
