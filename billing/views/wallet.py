"""The consumer's side of money: wallet and top-ups."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from billing.errors import StripeUnavailableError
from billing.forms.topup import TopupForm
from billing.models import LedgerAccount, Topup
from billing.selectors.ledger import find_ledger_account, list_entries
from billing.selectors.postpaid import find_credit
from billing.selectors.topup import access_topup, list_topups
from billing.selectors.warm_hour import describe_entries
from billing.services.topup import settle_topup, start_topup
from marketplace.context import actor_of, requested_account
from marketplace.models import Account
from marketplace.selectors.access import has_right

PAGE_SIZE = 50
PANEL_SIZE = 8


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def wallet(request: HttpRequest) -> HttpResponse:
    """Balance, statement, and the form to buy credit; POST leads to the payment page."""
    account = requested_account(request)
    # A mail may lead here with the amount that a card could not pay by itself.
    initial = {"amount_dollars": request.GET["amount"]} if "amount" in request.GET else {}
    form = TopupForm(request.POST or None, initial=initial)
    if request.method == "POST":
        account = requested_account(request, "billing")
        if form.is_valid():
            topup = start_topup(
                actor_of(request),
                account,
                amount_cents=form.amount_cents,
                saves_card=form.cleaned_data["saves_card"],
            )
            return redirect(topup.checkout_url)
    page = statement_page(request, account)
    context = wallet_context(request, account) | {
        "form": form,
        "topups": list_topups(account)[:PANEL_SIZE],
        "page": page,
        "lines": describe_entries(page or []),
    }
    return render(request, "billing/wallet.html", context, status=422 if form.errors else 200)


@login_required
@require_safe
def wallet_panel(request: HttpRequest) -> HttpResponse:
    """The balance, for a place on another page."""
    context = wallet_context(request, requested_account(request))
    return render(request, "billing/panels/wallet.html", context)


@login_required
@require_safe
def topup_return(request: HttpRequest, topup_id: UUID) -> HttpResponse:
    """Where the payer comes back to. It shows what Stripe says, and asks again while open.

    Never the only place where a payment is noticed: the webhook and a poll do it as well.
    """
    topup = access_topup(actor_of(request), topup_id)
    account = topup.account
    has_paid = "session_id" in request.GET
    is_known = True
    try:
        topup = settle_topup(topup.pk)
    except StripeUnavailableError:
        # Perhaps it was paid, perhaps not: the row is shown as waiting until Stripe answers.
        is_known = False
    context = {
        "topup": topup,
        "account": account,
        "has_paid": has_paid,
        "is_waiting": topup.state == Topup.State.OPEN and (has_paid or not is_known),
    }
    template = "billing/panels/topup.html" if request.htmx else "billing/topup.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def wallet_context(request: HttpRequest, account: Account) -> dict[str, Any]:
    """What the wallet holds, and whether the person may add to it."""
    row = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    credit = find_credit(account)
    return {
        "account": account,
        "posted_nanos": row.posted_nanos if row else 0,
        "held_nanos": row.held_nanos if row else 0,
        "available_nanos": row.available_nanos if row else 0,
        "credit": credit if credit and credit.is_used else None,
        "can_top_up": has_right(actor_of(request), account, "billing"),
    }


def statement_page(request: HttpRequest, account: Account) -> Any:
    """A page of the wallet's entries; None before its first money."""
    row = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    if row is None:
        return None
    return Paginator(list_entries(row), PAGE_SIZE).get_page(request.GET.get("page"))
