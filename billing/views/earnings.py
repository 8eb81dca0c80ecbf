"""What a creator earned, and where the money is."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.forms.payout import EarningsForm
from billing.selectors.earnings import ROWS_MAX, list_months, sum_earnings
from billing.selectors.payout import find_balances, find_obstacle, list_payouts
from billing.selectors.release import list_waiting
from billing.selectors.reversal import list_given_back, sum_given_back
from billing.selectors.royalty import sum_royalties_given, sum_royalties_received
from marketplace.context import actor_of, requested_account
from marketplace.models import Account
from marketplace.selectors.access import has_right

EARNINGS_DAYS = 30
PANEL_SIZE = 8
MONTHS_SHOWN = 24


@login_required
@require_safe
def earnings(request: HttpRequest) -> HttpResponse:
    """Balances, what each version earned by day, statements and payouts."""
    account = requested_account(request)
    months = list_months(account)
    form = EarningsForm(request.GET, months=months)
    is_valid = form.is_valid()
    month = form.first_day if is_valid else None
    since, until = _choose_days(month)
    rows = sum_earnings(
        account, since, until, form.group if is_valid else "day", limit=ROWS_MAX + 1
    )
    context = {
        **earnings_context(account),
        "can_give_back": has_right(actor_of(request), account, "billing"),
        "form": form,
        "month": month,
        "rows": rows[:ROWS_MAX],
        "has_more": len(rows) > ROWS_MAX,
        "share_nanos": sum(row.earned_nanos for row in rows[:ROWS_MAX]),
        "gross_nanos": sum(row.gross_nanos for row in rows[:ROWS_MAX]),
        "predictions": sum(row.predictions for row in rows[:ROWS_MAX]),
        "waiting": list_waiting(account, timezone.now()),
        "months": months[:MONTHS_SHOWN],
        "payouts": list_payouts(account)[:PANEL_SIZE],
        "obstacle": find_obstacle(account),
        "received": sum_royalties_received(account),
        "given": sum_royalties_given(account),
    }
    return render(request, "billing/earnings.html", context, status=200 if is_valid else 422)


@login_required
@require_safe
def earnings_panel(request: HttpRequest) -> HttpResponse:
    """The sums, for a place on another page."""
    context = earnings_context(requested_account(request))
    return render(request, "billing/panels/earnings.html", context)


def earnings_context(account: Account) -> dict[str, Any]:
    """Where the money is, and what the last days brought."""
    since, until = _choose_days(None)
    recent = sum_earnings(account, since, until, "model")
    return {
        "account": account,
        "balances": find_balances(account),
        "days": EARNINGS_DAYS,
        "given_back_nanos": sum_given_back(list_given_back(account, since))[1],
        "recent_nanos": sum(row.earned_nanos for row in recent),
        "recent_predictions": sum(row.predictions for row in recent),
    }


def _choose_days(month: date | None) -> tuple[date, date]:
    if month is None:
        today = timezone.now().astimezone(UTC).date()
        return today - timedelta(days=EARNINGS_DAYS - 1), today
    return month, (month + timedelta(days=31)).replace(day=1) - timedelta(days=1)
