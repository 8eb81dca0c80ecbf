"""The queue of cases that platform admins decide."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from billing.forms.prepaid import DecisionForm
from billing.models import Dispute, LedgerAccount, ReviewCase
from billing.selectors.fraud import access_case, list_cases
from billing.selectors.ledger import find_ledger_account
from billing.selectors.refund import sum_refundable_cents
from billing.services.fraud import decide_case
from marketplace.context import actor_of
from marketplace.core.money import format_nanos

PAGE_SIZE = 50


@login_required
@require_safe
def review_cases(request: HttpRequest) -> HttpResponse:
    """Open cases, oldest first; or those that were decided."""
    is_open = request.GET.get("state") != "decided"
    cases = list_cases(actor_of(request), is_open=is_open)
    page = Paginator(cases, PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "billing/review_cases.html", {"page": page, "is_open": is_open})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def review_case(request: HttpRequest, case_id: UUID) -> HttpResponse:
    """One case with its evidence, and the form that decides it."""
    actor = actor_of(request)
    case = access_case(actor, case_id)
    form = DecisionForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        decide_case(
            actor,
            case,
            decision=form.cleaned_data["decision"],
            reason=form.cleaned_data["reason"],
        )
        return redirect("billing:review-case", case_id=case.pk)
    context = _case_context(case) | {"form": form}
    return render(request, "billing/review_case.html", context, status=422 if form.errors else 200)


def _case_context(case: ReviewCase) -> dict[str, Any]:
    wallet = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=case.account_id)
    signals = [
        {"signal": signal, "facts": _facts_of(signal.evidence)}
        for signal in case.signals.order_by("created_at")
    ]
    return {
        "case": case,
        "account": case.account,
        "signals": signals,
        "holds": case.payout_holds.select_related("account").order_by("created_at"),
        "disputes": Dispute.objects.filter(account=case.account).order_by("-created_at"),
        "posted_nanos": wallet.posted_nanos if wallet else 0,
        "refundable_cents": sum_refundable_cents(case.account),
        "is_decided": case.state != ReviewCase.State.OPEN,
        "can_decide": case.state != ReviewCase.State.CLEARED,
    }


def _facts_of(evidence: dict[str, Any]) -> list[tuple[str, str]]:
    """Evidence for people: names without their units, amounts as dollars."""
    facts = []
    for name, value in evidence.items():
        if name.endswith("_nanos"):
            facts.append((name.removesuffix("_nanos"), format_nanos(int(value))))
        elif name.endswith("_cents"):
            cents = int(value)
            facts.append((name.removesuffix("_cents"), f"${cents // 100:,}.{cents % 100:02}"))
        else:
            facts.append((name, str(value)))
    return [(name.replace("_", " ").capitalize(), text) for name, text in facts]
