"""The platform's pages about the comparison with Stripe."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from billing.forms.adjustment import ReasonForm
from billing.selectors.reconcile import (
    find_difference,
    list_open_differences,
    list_runs,
    tally_rows,
)
from billing.services import reconcile as services
from billing.tasks.reconcile import carry_out_reconciliation
from billing.views.platform import platform_admin_required
from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError, NotFoundError
from marketplace.views.paging import page_of

PAGE_SIZE = 50


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def reconciliation(request: HttpRequest) -> HttpResponse:
    """The last runs and what is still open; POST starts a run."""
    if request.method == "POST":
        try:
            with transaction.atomic():
                run = services.begin_run(
                    actor=actor_of(request), is_repairing="repair" in request.POST
                )
                transaction.on_commit(lambda: carry_out_reconciliation.delay(str(run.pk)))
        except MarketplaceError as error:
            messages.error(request, error.detail)
        else:
            messages.info(request, "Comparing. Its result will be here in a moment.")
        return redirect("billing:reconciliation")
    runs = list_runs()
    latest = next((run for run in runs if run.counts), None)
    context = {
        "runs": runs,
        "latest": latest,
        "tallies": tally_rows(latest) if latest else [],
        "page": page_of(request, list_open_differences(), PAGE_SIZE),
    }
    return render(request, "billing/platform/reconciliation.html", context)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def difference(request: HttpRequest, difference_id: UUID) -> HttpResponse:
    """One difference; POST explains it: `mark` (with a reason), `approve` or `withdraw`."""
    row = find_difference(difference_id)
    if row is None:
        raise NotFoundError("No such difference.")
    actor = actor_of(request)
    form = ReasonForm(request.POST if request.POST.get("decision") == "mark" else None)
    if request.method == "POST":
        try:
            match request.POST.get("decision"):
                case "mark" if form.is_valid():
                    services.mark_explained(actor, row.pk, reason=form.cleaned_data["reason"])
                    return redirect("billing:difference", row.pk)
                case "approve":
                    services.approve_mark(actor, row.pk)
                    return redirect("billing:difference", row.pk)
                case "withdraw":
                    services.withdraw_mark(actor, row.pk)
                    return redirect("billing:difference", row.pk)
        except MarketplaceError as error:
            messages.error(request, error.detail)
            return redirect("billing:difference", row.pk)
    context = {
        "difference": row,
        "form": form,
        "can_mark": row.resolved_at is None and not row.explanation and not row.is_marked,
        "can_approve": row.is_marked and row.marked_by_id != request.user.pk,
    }
    status = 422 if request.method == "POST" else 200
    return render(request, "billing/platform/difference.html", context, status=status)
