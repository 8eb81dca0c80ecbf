"""How long an account keeps what its predictions carry."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.services import retention
from marketplace.api.authentication import actor_of, require_confirmed
from marketplace.core.limits import RETENTION_DAYS_MAX
from marketplace.models import Account
from marketplace.selectors.access import access_account


class RetentionInput(serializers.Serializer):
    days = serializers.IntegerField(min_value=0, max_value=RETENTION_DAYS_MAX)
    confirm = serializers.BooleanField(default=False)


class RetentionView(APIView):
    """`GET`, `PUT /api/retention?account=`."""

    def get(self, request: Request) -> Response:
        """For how many days contents and files are kept."""
        slug = request.query_params.get("account", "")
        return Response(_describe(access_account(actor_of(request), slug)))

    def put(self, request: Request) -> Response:
        """Keep them for so many days, 0 for not at all; shorter needs `confirm`."""
        require_confirmed(request)
        actor = actor_of(request)
        slug = request.query_params.get("account", "")
        account = access_account(actor, slug, retention.RIGHT)
        fields = RetentionInput(data=request.data)
        fields.is_valid(raise_exception=True)
        given = fields.validated_data
        changed = retention.change_retention(
            actor=actor, account=account, days=given["days"], is_confirmed=given["confirm"]
        )
        return Response(_describe(changed))


def _describe(account: Account) -> dict[str, Any]:
    return {"account": account.slug, "days": account.retention_days, "days_max": RETENTION_DAYS_MAX}
