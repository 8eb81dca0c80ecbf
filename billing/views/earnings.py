"""The creator's side of money."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.models import LedgerAccount
from billing.selectors.ledger import find_ledger_account
from billing.selectors.reversal import list_given_back, sum_given_back
from billing.selectors.usage import EARNINGS_DAYS, list_earnings
from marketplace.context import actor_of, requested_account
from marketplace.models import Account
from marketplace.selectors.access import Actor, has_right


@login_required
@require_safe
def earnings(request: HttpRequest) -> HttpResponse:
    """What each model earned, by day."""
    return render(
        request,
        "billing/earnings.html",
        earnings_context(actor_of(request), requested_account(request)),
    )


@login_required
@require_safe
def earnings_panel(request: HttpRequest) -> HttpResponse:
    """The sums, for a place on another page."""
    context = earnings_context(actor_of(request), requested_account(request))
    return render(request, "billing/panels/earnings.html", context)


def earnings_context(actor: Actor, account: Account) -> dict[str, Any]:
    """The payable, and the rows of the last days with their sums."""
    payable = find_ledger_account(LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=account.pk)
    rows = list_earnings(account)
    since = timezone.now() - timedelta(days=EARNINGS_DAYS)
    recent = list_given_back(account).filter(created_at__gte=since)
    return {
        "account": account,
        "payable_nanos": payable.posted_nanos if payable else 0,
        "rows": rows,
        "days": EARNINGS_DAYS,
        "share_nanos": sum(row.share_nanos for row in rows),
        "gross_nanos": sum(row.gross_nanos for row in rows),
        "given_back_nanos": sum_given_back(recent)[1],
        "can_give_back": has_right(actor, account, "billing"),
        "predictions": sum(row.predictions for row in rows),
    }
