"""Budgets of single consumers of a model, over the management API."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.selectors import abuse
from inference.services import query_budget
from marketplace.api.authentication import actor_of
from marketplace.api.limits import QueryBudgetInput
from marketplace.selectors.access import access_model
from marketplace.services.limits import QUERY_FIELDS


class BudgetsView(APIView):
    def get(self, request: Request, owner: str, name: str) -> Response:
        """The consumers that have a budget of their own."""
        model = access_model(actor_of(request), owner, name, "read")
        results = [
            {"account": one.account.slug, **{key: getattr(one, key) for key in QUERY_FIELDS}}
            for one in abuse.list_budgets(model)
        ]
        return Response({"results": results})


class BudgetView(APIView):
    def put(self, request: Request, owner: str, name: str, account: str) -> Response:
        """Give a consumer a budget of its own; what is left out is no budget."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        fields = QueryBudgetInput(data=request.data)
        fields.is_valid(raise_exception=True)
        budget = query_budget.set_budget(
            model=model, slug=account, fields=fields.validated_data, actor=actor
        )
        values = {key: getattr(budget, key) for key in QUERY_FIELDS}
        return Response({"account": account, **values})

    def delete(self, request: Request, owner: str, name: str, account: str) -> Response:
        """Let a consumer ask what everybody may."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        query_budget.remove_budget(model=model, slug=account, actor=actor)
        return Response(status=204)
