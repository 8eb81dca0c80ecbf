"""What an account has used, for people."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.forms.usage import UsageForm
from billing.selectors.reversal import map_reversals, sum_chosen_reversals
from billing.selectors.usage import UsageFilter, list_usage, sum_usage, sum_usage_by
from marketplace.context import requested_account
from marketplace.core import ids
from marketplace.models import Account

PAGE_SIZE = 50
PANEL_SIZE = 8


@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """What was booked: each prediction, newest first, or sums by day, model, key or tag."""
    account = requested_account(request)
    form = UsageForm(request.GET, account=account)
    is_valid = form.is_valid()
    chosen = form.filter if is_valid else UsageFilter()
    predictions, gross_nanos = sum_usage(account, chosen)
    context = {
        "account": account,
        "form": form,
        "is_chosen": chosen != UsageFilter(),
        "predictions": predictions,
        "gross_nanos": gross_nanos,
        "given_back_nanos": sum_chosen_reversals(account, chosen),
        "export_query": _export_query(request, account),
    }
    if is_valid and form.group:
        context["sums"] = sum_usage_by(account, chosen, form.group)
    else:
        page = Paginator(list_usage(account, chosen), PAGE_SIZE).get_page(request.GET.get("page"))
        context |= {"page": page, "rows": usage_rows(page.object_list)}
    return render(request, "billing/usage.html", context, status=200 if is_valid else 422)


def _export_query(request: HttpRequest, account: Account) -> str:
    """The same choice, for the addresses that export it."""
    query = request.GET.copy()
    for name in ("page", "by"):
        query.pop(name, None)
    query["account"] = account.slug
    return query.urlencode()


@login_required
@require_safe
def usage_panel(request: HttpRequest) -> HttpResponse:
    """The latest predictions, for a place on another page."""
    account = requested_account(request)
    context = {"account": account, "rows": usage_rows(list_usage(account)[:PANEL_SIZE])}
    return render(request, "billing/panels/usage.html", context)


def usage_rows(events: Any) -> list[dict[str, Any]]:
    """Usage events with their public ids, and what went back of them."""
    found = list(events)
    reversals = map_reversals(event.prediction_id for event in found)
    return [
        {
            "event": event,
            "id": ids.to_public(event.prediction_id),
            "reversal": reversals.get(event.prediction_id),
        }
        for event in found
    ]
