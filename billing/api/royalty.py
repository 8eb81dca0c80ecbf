"""Royalties, over the management API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.forms.royalty import read_version
from billing.models import Royalty
from billing.selectors.royalty import access_royalty, list_royalties
from billing.services.royalty import BPS_MAX, end_royalty, promise_royalty
from marketplace.api.authentication import actor_of
from marketplace.core.clock import to_wire
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.catalog import get_version


class RoyaltyInput(serializers.Serializer):
    parent = serializers.CharField(max_length=200)  # type: ignore[assignment]
    bps = serializers.IntegerField(min_value=1, max_value=BPS_MAX)


class RoyaltiesView(APIView):
    """`GET` what a version shares; `POST` to share more of it."""

    def get(self, request: Request, owner: str, name: str, number: int) -> Response:
        """All royalties of the version, those in force first."""
        version = get_version(access_model(actor_of(request), owner, name, "read"), number)
        return Response({"results": [royalty_json(one) for one in list_royalties(version)]})

    def post(self, request: Request, owner: str, name: str, number: int) -> Response:
        """Promise a share; needs the right `push`."""
        actor = actor_of(request)
        version = get_version(access_model(actor, owner, name, "push"), number)
        fields = RoyaltyInput(data=request.data)
        fields.is_valid(raise_exception=True)
        parent = _read_parent(actor, fields.validated_data["parent"])
        royalty = promise_royalty(actor, version, parent=parent, bps=fields.validated_data["bps"])
        return Response(royalty_json(royalty), status=201)


class RoyaltyView(APIView):
    """`GET`, or `DELETE` to end it."""

    def get(self, request: Request, royalty_id: UUID) -> Response:
        """For both sides of it."""
        return Response(royalty_json(access_royalty(actor_of(request), royalty_id)))

    def delete(self, request: Request, royalty_id: UUID) -> Response:
        """End it: predictions booked from now on are not shared."""
        actor = actor_of(request)
        return Response(royalty_json(end_royalty(actor, access_royalty(actor, royalty_id))))


def royalty_json(royalty: Royalty) -> dict[str, Any]:
    """A royalty on the wire."""
    return {
        "id": str(royalty.pk),
        "version": str(royalty.version),
        "parent": str(royalty.parent),
        "beneficiary": royalty.beneficiary.slug,
        "bps": royalty.bps,
        "created_at": to_wire(royalty.created_at),
        "ended_at": to_wire(royalty.ended_at) if royalty.ended_at else None,
    }


def _read_parent(actor: Actor, text: str) -> ModelVersion:
    try:
        return read_version(actor, text)
    except forms.ValidationError as error:
        detail = str(error.messages[0])
        raise InvalidInputError(errors=[FieldError(pointer="/parent", detail=detail)]) from None
