"""The creator's side of money."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.models import LedgerAccount
from billing.selectors.ledger import find_ledger_account
from billing.selectors.royalty import sum_royalties_given, sum_royalties_received
from billing.selectors.usage import EARNINGS_DAYS, list_earnings
from marketplace.context import requested_account
from marketplace.models import Account


@login_required
@require_safe
def earnings(request: HttpRequest) -> HttpResponse:
    """What each model earned, by day."""
    account = requested_account(request)
    context = earnings_context(account) | {
        "received": sum_royalties_received(account),
        "given": sum_royalties_given(account),
    }
    return render(request, "billing/earnings.html", context)


@login_required
@require_safe
def earnings_panel(request: HttpRequest) -> HttpResponse:
    """The sums, for a place on another page."""
    context = earnings_context(requested_account(request))
    return render(request, "billing/panels/earnings.html", context)


def earnings_context(account: Account) -> dict[str, Any]:
    """The payable, and the rows of the last days with their sums."""
    payable = find_ledger_account(LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=account.pk)
    rows = list_earnings(account)
    return {
        "account": account,
        "payable_nanos": payable.posted_nanos if payable else 0,
        "rows": rows,
        "days": EARNINGS_DAYS,
        "share_nanos": sum(row.share_nanos for row in rows),
        "gross_nanos": sum(row.gross_nanos for row in rows),
        "predictions": sum(row.predictions for row in rows),
    }
