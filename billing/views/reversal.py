"""Give a prediction's price back, and show that it was."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from billing.forms.reversal import ReversalForm
from billing.models import UsageReversal
from billing.selectors.reversal import access_reversal, list_all_given_back, list_given_back
from billing.services.reversal import reverse_usage
from billing.views.platform import platform_admin_required
from marketplace.context import actor_of, requested_account
from marketplace.core import ids
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import format_nanos
from marketplace.forms.problem import add_problem
from marketplace.views.paging import page_of

PAGE_SIZE = 50


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def give_back(request: HttpRequest) -> HttpResponse:
    """A creator gives a prediction of its own models back, and sees what it gave."""
    account = requested_account(request, "billing" if request.method == "POST" else "read")
    form = _make_form(request)
    if form.is_valid() and _give(request, form, creator_id=account.pk):
        return redirect(f"{reverse('billing:give-back')}?account={account.slug}")
    page = page_of(request, list_given_back(account), PAGE_SIZE)
    context = {"account": account, "form": form, "page": page, "rows": reversal_rows(page)}
    status = 422 if form.is_bound else 200
    return render(request, "billing/give_back.html", context, status=status)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def platform_give_back(request: HttpRequest) -> HttpResponse:
    """An admin gives any prediction back, and sees what was given."""
    form = _make_form(request)
    if form.is_valid() and _give(request, form):
        return redirect("billing:platform-give-back")
    page = page_of(request, list_all_given_back(), PAGE_SIZE)
    context = {"form": form, "page": page, "rows": reversal_rows(page)}
    status = 422 if form.is_bound else 200
    return render(request, "billing/platform/give_back.html", context, status=status)


@login_required
@require_safe
def reversal_panel(request: HttpRequest, public_id: str) -> HttpResponse:
    """What went back of a prediction, for a place on its page; empty if nothing did."""
    reversal = access_reversal(actor_of(request), public_id)
    return render(request, "billing/panels/reversal.html", {"reversal": reversal})


def reversal_rows(reversals: object) -> list[dict[str, object]]:
    """Reversals with the public ids of their predictions."""
    return [
        {"reversal": one, "id": ids.to_public(one.prediction_id)}
        for one in reversals  # type: ignore[attr-defined]
    ]


def _make_form(request: HttpRequest) -> ReversalForm:
    initial = {"prediction": request.GET.get("prediction", "")}
    return ReversalForm(request.POST or None, initial=initial)


def _give(request: HttpRequest, form: ReversalForm, creator_id: UUID | None = None) -> bool:
    answers = form.cleaned_data
    try:
        reversal: UsageReversal = reverse_usage(
            actor_of(request),
            answers["prediction"],
            reason=answers["reason"],
            gross_nanos=answers["amount"],
            creator_id=creator_id,
        )
    except MarketplaceError as error:
        add_problem(form, error)
        return False
    messages.success(request, f"{format_nanos(reversal.gross_nanos)} went back.")
    return True
