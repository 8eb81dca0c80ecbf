"""The calculator beside a model's price."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.forms.estimate import EstimateForm
from billing.selectors.estimate import estimate
from billing.selectors.price import find_price, list_prices
from marketplace.context import actor_of
from marketplace.models import AIModel
from marketplace.selectors.access import access_model

HISTORY_SIZE = 5


@require_safe
def estimate_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """What a month of predictions costs; also a page of its own for who has no scripts."""
    model = access_model(actor_of(request), owner, name)
    context = {"model": model, **_describe(request, model)}
    form = context.get("form")
    status = 422 if form is not None and form.errors else 200
    is_part = bool(request.htmx)  # type: ignore[attr-defined]
    template = "billing/panels/estimate.html" if is_part else "billing/estimate.html"
    return render(request, template, context, status=status)


def _describe(request: HttpRequest, model: AIModel) -> dict[str, Any]:
    price = find_price(model)
    if price is None:
        return {"price": None}
    form = EstimateForm(price, request.GET if "predictions" in request.GET else None)
    found = {"price": price, "form": form, "history": list_prices(model)[:HISTORY_SIZE]}
    if form.is_bound and not form.is_valid():
        return found
    asked = form.asked
    metered = {kind: asked[kind] for kind in form.kinds}
    made = estimate(price, predictions=asked["predictions"], rows=asked["rows"], metered=metered)
    return found | {"estimate": made}
