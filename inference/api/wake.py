"""Which versions of a model are loaded, and their policies, over the management API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models.node import IDLE_AFTER_MAX_S, IDLE_AFTER_MIN_S
from inference.selectors import wake as selectors
from inference.selectors.wake import Temperature, describe_temperature
from inference.services import wake as services
from marketplace.api.authentication import actor_of
from marketplace.selectors.access import access_model


class PolicyInput(serializers.Serializer):
    """Both, so that what is left out is not mistaken for what is kept."""

    idle_after_s = serializers.IntegerField(
        min_value=IDLE_AFTER_MIN_S, max_value=IDLE_AFTER_MAX_S, allow_null=True
    )
    is_always_warm = serializers.BooleanField()


class DeploymentsView(APIView):
    """`GET /api/models/{owner}/{name}/deployments`."""

    def get(self, request: Request, owner: str, name: str) -> Response:
        """How each deployed version of an own model is, the newest first."""
        model = access_model(actor_of(request), owner, name, "read")
        return Response({"results": [_describe(one) for one in selectors.list_temperatures(model)]})


class DeploymentView(APIView):
    """`/api/models/{owner}/{name}/deployments/{number}`."""

    def get(self, request: Request, owner: str, name: str, number: int) -> Response:
        """How a deployed version of an own model is."""
        model = access_model(actor_of(request), owner, name, "read")
        return Response(_describe(describe_temperature(selectors.get_deployment(model, number))))

    def put(self, request: Request, owner: str, name: str, number: int) -> Response:
        """Say what happens to it while nobody calls it; needs the right `push`."""
        actor = actor_of(request)
        deployment = selectors.get_deployment(access_model(actor, owner, name, "push"), number)
        fields = PolicyInput(data=request.data)
        fields.is_valid(raise_exception=True)
        changed = services.set_policy(actor=actor, deployment=deployment, **fields.validated_data)
        return Response(_describe(describe_temperature(changed)))


def _describe(found: Temperature) -> dict[str, Any]:
    deployment = found.deployment
    return {
        "version": deployment.version.number,
        "state": found.state.value,
        "cold_start_s": found.cold_start_s,
        "replica_count": deployment.replica_count,
        "load_replica_count": deployment.load_replica_count,
        "idle_after_s": deployment.idle_after_s,
        "is_always_warm": deployment.is_always_warm,
        "warm_hour_nanos": deployment.warm_hour_nanos,
        "next_warm_hour_at": deployment.next_warm_hour_at,
        "last_wanted_at": deployment.last_wanted_at,
    }
