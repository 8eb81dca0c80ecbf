"""The consumer's log of predictions."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.forms.prediction import PredictionForm
from inference.selectors import prediction as selectors
from inference.selectors.prediction import PredictionFilter
from inference.views.panel import panel_login_required, render_panel
from marketplace.context import actor_of, requested_account

_MS = timedelta(milliseconds=1)


@login_required
@require_safe
def predictions(request: HttpRequest) -> HttpResponse:
    """An account's predictions by time, model, key, state and cost; newest first, 50 a page."""
    account = requested_account(request)
    form = PredictionForm(request.GET, account=account)
    is_valid = form.is_valid()
    chosen = form.filter if is_valid else PredictionFilter()
    query = request.GET.copy()
    query.pop("before", None)
    query["account"] = account.slug
    context = {
        "account": account,
        "form": form,
        "chosen": chosen,
        "is_chosen": chosen != PredictionFilter(),
        "look_back_days": selectors.LOOK_BACK.days,
        "page": selectors.get_page(account, chosen, before=request.GET.get("before", "")),
        "query": query.urlencode(),
    }
    status = 200 if is_valid else 422
    return render(request, "inference/predictions.html", context, status=status)


@panel_login_required
@require_safe
def predictions_panel(request: HttpRequest) -> HttpResponse:
    """An account's predictions, newest first, 50 a page."""
    account = requested_account(request)
    page = selectors.get_page(account, before=request.GET.get("before", ""))
    context = {"account": account, "page": page}
    return render_panel(request, "predictions", context, title="Predictions")


@login_required
@require_safe
def prediction(request: HttpRequest, public_id: str) -> HttpResponse:
    """One prediction; its address is in the envelope that the API answers."""
    found = selectors.access_prediction(actor_of(request), public_id)
    completed_at = found.completed_at
    context = {
        "prediction": found,
        "public_id": public_id,
        "predict_ms": found.predict_time_us / 1000,
        "total_ms": (completed_at - found.created_at) / _MS if completed_at else None,
        "key": selectors.find_key(found),
        "input": _show(found.input),
        "output": _show(found.output),
        "kept_until": selectors.find_kept_until(found),
    }
    return render(request, "inference/prediction.html", context)


def _show(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
