"""The platform's pages for credits and adjustments."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from billing.forms.adjustment import (
    AdjustmentFilterForm,
    AdjustmentForm,
    CreditForm,
    ReasonForm,
)
from billing.models import Adjustment
from billing.selectors.adjustment import count_pending, get_adjustment, list_adjustments
from billing.services import adjustment as services
from billing.services import ledger
from billing.views.platform import platform_admin_required
from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError
from marketplace.forms.problem import add_problem
from marketplace.views.once import sent_once
from marketplace.views.paging import page_of

PAGE_SIZE = 50


@platform_admin_required
@require_safe
def adjustments(request: HttpRequest) -> HttpResponse:
    """All of them, newest first, or those that were chosen."""
    form = AdjustmentFilterForm(request.GET)
    chosen = form.cleaned_data if form.is_valid() else {}
    context = {
        "form": form,
        "page": page_of(request, list_adjustments(**chosen), PAGE_SIZE),
        "is_chosen": any(chosen.values()),
        "pending_count": count_pending(),
        "alone_nanos_max": services.get_alone_nanos_max(),
    }
    status = 200 if form.is_valid() else 422
    return render(request, "billing/platform/adjustments.html", context, status=status)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
@sent_once
def new_credit(request: HttpRequest) -> HttpResponse:
    """Propose credit for a wallet."""
    form = CreditForm(request.POST or None, initial={"account": request.GET.get("account", "")})
    if form.is_valid():
        answers = form.cleaned_data
        try:
            row = services.propose_credit(
                actor_of(request),
                answers["account"],
                amount_nanos=answers["amount"],
                reason=answers["reason"],
                reference=answers["reference"],
            )
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            return _proposed(request, row)
    return _render_form(request, form, "New credit")


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
@sent_once
def new_adjustment(request: HttpRequest) -> HttpResponse:
    """Propose a movement between two ledger accounts."""
    form = AdjustmentForm(request.POST or None)
    if form.is_valid():
        answers = form.cleaned_data
        ids = [
            ledger.get_ledger_account_id(kind, holder_id=holder.pk if holder else None)
            for kind, holder in (answers["source"], answers["target"])
        ]
        try:
            row = services.propose_adjustment(
                actor_of(request),
                source_id=ids[0],
                target_id=ids[1],
                amount_nanos=answers["amount"],
                reason=answers["reason"],
                reference=answers["reference"],
            )
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            return _proposed(request, row)
    return _render_form(request, form, "New adjustment")


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def adjustment(request: HttpRequest, adjustment_id: UUID) -> HttpResponse:
    """One of them; POST decides it: `approve`, `refuse` (with a reason) or `withdraw`."""
    row = get_adjustment(adjustment_id)
    actor = actor_of(request)
    form = ReasonForm(request.POST if request.POST.get("decision") == "refuse" else None)
    if request.method == "POST":
        try:
            match request.POST.get("decision"):
                case "approve":
                    services.approve(actor, row.pk)
                    messages.success(request, "Posted.")
                    return redirect("billing:adjustment", row.pk)
                case "withdraw":
                    services.withdraw(actor, row.pk)
                    messages.success(request, "Withdrawn. Nothing moved.")
                    return redirect("billing:adjustment", row.pk)
                case "refuse" if form.is_valid():
                    services.refuse(actor, row.pk, reason=form.cleaned_data["reason"])
                    messages.success(request, "Refused. Nothing moved.")
                    return redirect("billing:adjustment", row.pk)
        except MarketplaceError as error:
            messages.error(request, error.detail)
            return redirect("billing:adjustment", row.pk)
    is_pending = row.state == Adjustment.State.PENDING
    context = {
        "adjustment": row,
        "form": form,
        "is_own": is_pending and row.created_by_id == request.user.pk,
        "is_others": is_pending and row.created_by_id != request.user.pk,
    }
    status = 422 if request.method == "POST" else 200
    return render(request, "billing/platform/adjustment.html", context, status=status)


def _proposed(request: HttpRequest, row: Adjustment) -> HttpResponse:
    if row.state == Adjustment.State.POSTED:
        messages.success(request, "Posted.")
    else:
        messages.info(request, "Another admin has to approve it. Nothing has moved yet.")
    return redirect("billing:adjustment", row.pk)


def _render_form(
    request: HttpRequest, form: CreditForm | AdjustmentForm, title: str
) -> HttpResponse:
    context = {
        "form": form,
        "title": title,
        "alone_nanos_max": services.get_alone_nanos_max(),
    }
    status = 422 if form.is_bound else 200
    return render(request, "billing/platform/adjustment_new.html", context, status=status)
