"""What a key has cost, over the management API."""

from __future__ import annotations

from uuid import UUID

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.selectors.budget import list_budgets
from marketplace.api.authentication import actor_of
from marketplace.selectors.key import access_key


class KeySpendView(APIView):
    """`GET /api/keys/{id}/spend`."""

    def get(self, request: Request, key_id: UUID) -> Response:
        """The budgets of a key in the periods that run now. Needs the right `keys`."""
        api_key = access_key(actor_of(request), key_id)
        results = [
            {
                "period": budget.period,
                "starts_on": budget.starts_on.isoformat(),
                "budget_nanos": budget.budget_nanos,
                "spent_nanos": budget.spent_nanos,
                "held_nanos": budget.held_nanos,
            }
            for budget in list_budgets(api_key, timezone.now())
        ]
        return Response({"results": results})
