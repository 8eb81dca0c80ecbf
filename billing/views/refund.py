"""Money that goes back: asked for by the account, or decided by the platform."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from billing.errors import NothingToRefundError, RefundTooLargeError
from billing.forms.prepaid import AdminRefundForm, RefundForm
from billing.selectors.refund import list_refunds, sum_refundable_cents
from billing.services.refund import refund_unspent, request_refund
from marketplace.context import actor_of, requested_account
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import has_right

PANEL_SIZE = 20


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def refund(request: HttpRequest) -> HttpResponse:
    """How much can be paid back, what was, and the form that asks for it."""
    account = requested_account(request)
    form = RefundForm(request.POST or None)
    if request.method == "POST":
        account = requested_account(request, "billing")
        if form.is_valid():
            try:
                request_refund(
                    actor_of(request),
                    account,
                    amount_cents=form.cleaned_data["amount"],
                    request_id=form.cleaned_data["request_id"],
                )
            except (NothingToRefundError, RefundTooLargeError) as error:
                form.add_error("amount", error.detail)
            else:
                return redirect(f"{reverse('billing:refund')}?account={account.slug}")
    can_refund = has_right(actor_of(request), account, "billing")
    return _page(request, "billing/refund.html", account, form, can_refund=can_refund)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def account_refund(request: HttpRequest, slug: str) -> HttpResponse:
    """The same by a platform admin, for any account, with a reason."""
    actor = actor_of(request)
    account = Account.objects.filter(slug=slug).first()
    if account is None or not actor.is_admin:
        raise NotFoundError("No such account.")
    form = AdminRefundForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            refund_unspent(
                account,
                request_key=f"admin:{form.cleaned_data['request_id']}",
                label=actor.label,
                amount_cents=form.cleaned_data["amount"],
                reason=form.cleaned_data["reason"],
            )
        except (NothingToRefundError, RefundTooLargeError) as error:
            form.add_error("amount", error.detail)
        else:
            return redirect("billing:account-refund", slug=slug)
    return _page(request, "billing/account_refund.html", account, form)


def _page(
    request: HttpRequest, template: str, account: Account, form: RefundForm, **more: Any
) -> HttpResponse:
    context = {
        "account": account,
        "form": form,
        "refundable_cents": sum_refundable_cents(account),
        "refunds": list_refunds(account)[:PANEL_SIZE],
        **more,
    }
    return render(request, template, context, status=422 if form.errors else 200)
