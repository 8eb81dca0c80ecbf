"""The price of a model, shown and set where the model is shown."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from billing.forms.price import PriceForm
from billing.selectors.price import find_next_price, find_price, list_prices
from billing.services.price import set_price
from marketplace.context import actor_of
from marketplace.core.money import format_nanos, split_share
from marketplace.selectors.access import access_model, has_right

HISTORY_SIZE = 5


@require_http_methods(["GET", "HEAD", "POST"])
def price_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """What a prediction costs; who may push the model can set it here."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push" if request.method == "POST" else None)
    price = find_price(model)
    initial = {
        "dollars_per_prediction": format_nanos(price.nanos_per_prediction).removeprefix("$")
        if price
        else ""
    }
    form = PriceForm(request.POST or None, initial=initial)
    is_saved = False
    if request.method == "POST" and form.is_valid():
        nanos = form.cleaned_data["dollars_per_prediction"]
        set_price(actor, model, nanos_per_prediction=nanos)
        price = find_price(model)
        is_saved = True
    creator_nanos, platform_nanos = (
        split_share(price.nanos_per_prediction, price.creator_share_bps) if price else (0, 0)
    )
    context = {
        "model": model,
        "price": price,
        "next_price": find_next_price(model),
        "per_thousand_nanos": price.nanos_per_prediction * 1_000 if price else None,
        "creator_nanos": creator_nanos,
        "platform_nanos": platform_nanos,
        "can_edit": has_right(actor, model.account, "push"),
        "history": list_prices(model)[:HISTORY_SIZE],
        "form": form,
        "is_saved": is_saved,
    }
    status = 422 if form.errors else 200
    return render(request, "billing/panels/price.html", context, status=status)
