"""The consumer's list of predictions."""

from __future__ import annotations

import json

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.selectors import prediction as predictions
from inference.views.panel import panel_login_required, render_panel
from marketplace.context import actor_of, requested_account


@panel_login_required
@require_safe
def predictions_panel(request: HttpRequest) -> HttpResponse:
    """An account's predictions, newest first, 50 a page."""
    account = requested_account(request)
    page = predictions.get_page(account, before=request.GET.get("before", ""))
    context = {"account": account, "page": page}
    return render_panel(request, "predictions", context, title="Predictions")


@login_required
@require_safe
def prediction(request: HttpRequest, public_id: str) -> HttpResponse:
    """One prediction; its address is in the envelope that the API answers."""
    found = predictions.access_prediction(actor_of(request), public_id)
    output = json.dumps(found.output, indent=2, ensure_ascii=False) if found.output else ""
    context = {
        "prediction": found,
        "public_id": public_id,
        "predict_ms": found.predict_time_us / 1000,
        "output": output,
    }
    return render(request, "inference/prediction.html", context)
