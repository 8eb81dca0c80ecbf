"""Models and channels, over the management API."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from rest_framework import serializers
from rest_framework.permissions import AllowAny, IsAuthenticatedOrReadOnly
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.api.authentication import actor_of
from marketplace.api.limits import GuardInput, RateInput
from marketplace.core import limits
from marketplace.core.clock import to_wire
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, Channel
from marketplace.selectors.access import access_account, access_model, list_visible_models
from marketplace.selectors.catalog import get_version
from marketplace.services.catalog import GUARD_FIELDS, publish_version, put_model, withdraw
from marketplace.services.limits import RATE_FIELDS


class ModelInput(RateInput, GuardInput):
    title = serializers.CharField(max_length=120)
    summary = serializers.CharField(max_length=280, required=False, allow_blank=True)
    card = serializers.CharField(
        max_length=limits.CARD_LENGTH_MAX, required=False, allow_blank=True, trim_whitespace=False
    )
    task = serializers.CharField(max_length=40, required=False, allow_blank=True)
    licence = serializers.CharField(max_length=64, required=False, allow_blank=True)
    industry = serializers.CharField(max_length=40, required=False, allow_blank=True)
    visibility = serializers.ChoiceField(AIModel.Visibility.choices, required=False)


class ChannelInput(serializers.Serializer):
    version = serializers.IntegerField(min_value=1, max_value=limits.VERSIONS_PER_MODEL_MAX)


class ModelsView(APIView):
    """`GET /api/models?owner=&page=`: models that the caller may see."""

    permission_classes = [AllowAny]

    def get(self, request: Request) -> Response:
        """One page of models."""
        models = list_visible_models(actor_of(request))
        if owner := request.query_params.get("owner"):
            models = models.filter(account__slug=owner)
        page = Paginator(models, limits.PAGE_SIZE).get_page(request.query_params.get("page"))
        return Response(
            {
                "results": [model_json(model) for model in page],
                "page": page.number,
                "pages": page.paginator.num_pages,
            }
        )


class ModelView(APIView):
    """`GET`, `PUT /api/models/{owner}/{name}`."""

    permission_classes = [IsAuthenticatedOrReadOnly]  # Public models are read without a key.

    def get(self, request: Request, owner: str, name: str) -> Response:
        """A model."""
        return Response(model_json(access_model(actor_of(request), owner, name)))

    def put(self, request: Request, owner: str, name: str) -> Response:
        """Create the model or change its listing; needs the right `push`."""
        actor = actor_of(request)
        account = access_account(actor, owner, "push")
        fields = ModelInput(data=request.data)
        fields.is_valid(raise_exception=True)
        model, is_new = put_model(
            actor=actor, account=account, name=name, fields=fields.validated_data
        )
        return Response(model_json(model), status=201 if is_new else 200)


class ChannelView(APIView):
    """`PUT /api/models/{owner}/{name}/channels/{channel}`."""

    def put(self, request: Request, owner: str, name: str, channel: str) -> Response:
        """Move a channel to an approved version; needs the right `publish`."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "publish")
        if channel not in Channel.Name.values:
            raise NotFoundError(f"A channel is one of {', '.join(Channel.Name.values)}.")
        fields = ChannelInput(data=request.data)
        fields.is_valid(raise_exception=True)
        version = get_version(model, fields.validated_data["version"])
        publish_version(version=version, channel=channel, actor=actor)
        return Response({"model": str(model), "channel": channel, "version": version.number})


class WithdrawView(APIView):
    """`POST /api/models/{owner}/{name}/versions/{number}/withdraw`."""

    def post(self, request: Request, owner: str, name: str, number: int) -> Response:
        """Take a version out of service for good; needs the right `publish`."""
        actor = actor_of(request)
        version = get_version(access_model(actor, owner, name, "publish"), number)
        withdraw(version=version, actor=actor)
        return Response({"model": owner + "/" + name, "version": number, "state": version.state})


def model_json(model: AIModel) -> dict[str, Any]:
    """A model on the wire."""
    return {
        "owner": model.account.slug,
        "name": model.name,
        "title": model.title,
        "summary": model.summary,
        "card": model.card,
        "task": model.task,
        "licence": model.licence,
        "industry": model.industry,
        "visibility": model.visibility,
        **{name: getattr(model, name) for name in (*RATE_FIELDS, *GUARD_FIELDS)},
        "created_at": to_wire(model.created_at),
    }
