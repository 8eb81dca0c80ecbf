"""Where a creator says how to be paid, and sees what became of it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.forms.payout import OnboardingForm
from billing.models import ConnectAccount
from billing.selectors.payout import (
    PAYOUTS_PER_PAGE,
    find_account_obstacle,
    find_balances,
    find_obstacle,
    list_payouts,
)
from billing.services.connect import refresh_account, start_onboarding
from marketplace.context import actor_of, requested_account
from marketplace.models import Account
from marketplace.selectors.access import has_right
from marketplace.views.confirm import needs_confirmation


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@needs_confirmation("POST")
def payouts(request: HttpRequest) -> HttpResponse:
    """State at Stripe, what is missing, and all payouts; POST leads to Stripe's page."""
    account = requested_account(request)
    connect = ConnectAccount.objects.filter(creator=account).first()
    form = OnboardingForm(request.POST or None)
    if request.method == "POST":
        account = requested_account(request, "billing")
        is_known = connect is not None and connect.connect_account_id is not None
        if is_known or form.is_valid():
            country = "" if is_known else form.cleaned_data["country"]
            return redirect(start_onboarding(actor_of(request), account, country=country))
    context = payouts_context(request, account, connect) | {
        "form": form,
        "has_expired": request.GET.get("link") == "expired",
    }
    return render(request, "billing/payouts.html", context, status=422 if form.errors else 200)


@login_required
@require_safe
def onboarding_return(request: HttpRequest) -> HttpResponse:
    """Where the creator comes back to from Stripe: asks Stripe, and shows what it says."""
    account = requested_account(request)
    connect = ConnectAccount.objects.filter(creator=account).first()
    is_answered = True
    if connect is not None:
        try:
            connect = refresh_account(connect)
        except (StripeUnavailableError, StripeRefusedError):
            # The poll asks again; the page shows what was known before.
            is_answered = False
    context = payouts_context(request, account, connect) | {
        "form": OnboardingForm(),
        "has_returned": True,
        "is_answered": is_answered,
    }
    return render(request, "billing/payouts.html", context)


@login_required
@require_safe
def payout_setup_panel(request: HttpRequest) -> HttpResponse:
    """In a word whether the account can be paid, for the steps of a first push."""
    account = requested_account(request)
    connect = ConnectAccount.objects.filter(creator=account).first()
    context = {"account": account, "obstacle": find_account_obstacle(account, connect)}
    return render(request, "billing/panels/payout_setup.html", context)


def payouts_context(
    request: HttpRequest, account: Account, connect: ConnectAccount | None
) -> dict[str, Any]:
    """What both pages show."""
    page = Paginator(list_payouts(account), PAYOUTS_PER_PAGE).get_page(request.GET.get("page"))
    return {
        "account": account,
        "connect": connect,
        "is_known": connect is not None and connect.connect_account_id is not None,
        "balances": find_balances(account),
        "obstacle": find_obstacle(account),
        "page": page,
        "minimum_cents": settings.PAYOUT_MINIMUM_CENTS,
        "can_edit": has_right(actor_of(request), account, "billing"),
    }
