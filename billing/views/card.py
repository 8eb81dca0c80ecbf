"""Saved cards, and what is done by itself when the wallet runs low."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.forms.prepaid import AutoTopupForm, BalanceAlertForm
from billing.selectors.card import access_card, find_auto_topup, find_balance_alert, list_cards
from billing.services import auto_topup, card
from marketplace.context import actor_of, requested_account
from marketplace.models import Account
from marketplace.selectors.access import has_right
from marketplace.views.confirm import needs_confirmation


@login_required
@require_safe
def cards(request: HttpRequest) -> HttpResponse:
    """The cards of an account, its automatic top-up, and its mail about a low wallet."""
    account = requested_account(request)
    if "saved" in request.GET:
        # Back from Stripe's page. The webhook brings the card, too; this may be sooner.
        with suppress(StripeUnavailableError, StripeRefusedError):
            card.sync_cards(account)
    return _page(request, account)


@login_required
@require_POST
@needs_confirmation()
def card_new(request: HttpRequest) -> HttpResponse:
    """Leads to Stripe's page that saves a card."""
    return redirect(card.start_card_setup(requested_account(request, "billing")))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def card_remove(request: HttpRequest, card_id: UUID) -> HttpResponse:
    """Asks, then takes the card away."""
    found = access_card(actor_of(request), card_id, "billing")
    if request.method == "POST":
        card.remove_card(actor_of(request), found)
        return redirect(_cards_url(found.account))
    order = find_auto_topup(found.account)
    is_last = list_cards(found.account).count() == 1
    ends_auto_topup = order is not None and order.is_enabled and is_last
    context = {"card": found, "account": found.account, "ends_auto_topup": ends_auto_topup}
    return render(request, "billing/card_remove.html", context)


@login_required
@require_POST
def card_default(request: HttpRequest, card_id: UUID) -> HttpResponse:
    """Makes it the card that pays by itself."""
    found = access_card(actor_of(request), card_id, "billing")
    card.choose_card(actor_of(request), found)
    return redirect(_cards_url(found.account))


@login_required
@require_POST
def auto_topup_set(request: HttpRequest) -> HttpResponse:
    """Switches the automatic top-up on, or changes it."""
    account = requested_account(request, "billing")
    form = AutoTopupForm(request.POST)
    if not form.is_valid():
        return _page(request, account, auto_form=form)
    auto_topup.configure_auto_topup(
        actor_of(request),
        account,
        threshold_cents=form.cleaned_data["threshold"],
        amount_cents=form.cleaned_data["amount"],
        monthly_limit_cents=form.cleaned_data["monthly_limit"],
    )
    return redirect(_cards_url(account))


@login_required
@require_POST
def auto_topup_stop(request: HttpRequest) -> HttpResponse:
    """Switches it off."""
    account = requested_account(request, "billing")
    auto_topup.stop_auto_topup(actor_of(request), account)
    return redirect(_cards_url(account))


@login_required
@require_POST
def balance_alert_set(request: HttpRequest) -> HttpResponse:
    """Says when to mail that the wallet runs low."""
    account = requested_account(request, "billing")
    form = BalanceAlertForm(request.POST)
    if not form.is_valid():
        return _page(request, account, alert_form=form)
    auto_topup.set_balance_alert(
        actor_of(request), account, threshold_cents=form.cleaned_data["threshold"]
    )
    return redirect(_cards_url(account))


def _page(
    request: HttpRequest,
    account: Account,
    *,
    auto_form: AutoTopupForm | None = None,
    alert_form: BalanceAlertForm | None = None,
) -> HttpResponse:
    order, alert = find_auto_topup(account), find_balance_alert(account)
    threshold = Decimal(alert.threshold_cents) / 100 if alert else Decimal(0)
    context: dict[str, Any] = {
        "account": account,
        "cards": list_cards(account),
        "order": order,
        "is_taxed": settings.STRIPE_TAX,
        "auto_form": auto_form or AutoTopupForm(order=order),
        "alert_form": alert_form or BalanceAlertForm(initial={"threshold": threshold}),
        "can_edit": has_right(actor_of(request), account, "billing"),
    }
    status = 422 if auto_form or alert_form else 200
    return render(request, "billing/cards.html", context, status=status)


def _cards_url(account: Account) -> str:
    return f"{reverse('billing:cards')}?account={account.slug}"
