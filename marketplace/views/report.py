"""Report a model; decide on reports; appeal, and answer appeals."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from marketplace.context import actor_of, current_account
from marketplace.core.errors import MarketplaceError, NotFoundError
from marketplace.core.flags import MODEL_REPORTS
from marketplace.forms.platform import (
    DISMISSALS,
    TAKEDOWNS,
    AppealForm,
    DeedForm,
    ReportForm,
)
from marketplace.forms.problem import add_problem
from marketplace.models import Report, Takedown, User
from marketplace.selectors import report as selectors
from marketplace.selectors.access import access_model, list_accounts
from marketplace.selectors.platform import get_model
from marketplace.services import report as services
from marketplace.services import takedown as takedowns
from marketplace.services.consequence import foretell_model
from marketplace.services.flag import require_flag
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, ask_or_do, platform_admin_required


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def report_model(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Tell the platform that something is wrong with a model."""
    require_flag(MODEL_REPORTS, current_account(request))
    assert isinstance(request.user, User)
    model = access_model(actor_of(request), owner, name)
    form = ReportForm(request.POST if request.method == "POST" else None)
    status = 422 if form.is_bound else 200
    if form.is_valid():
        try:
            services.report_model(user=request.user, model=model, **form.cleaned_data)
        except MarketplaceError as error:
            add_problem(form, error)
            status = error.http_status
        else:
            messages.success(request, "Thank you. We look at it, and tell you by mail.")
            return redirect("marketplace:model", owner, name)
    context = {"model": model, "form": form}
    return render(request, "marketplace/report.html", context, status=status)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def appeal(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """What the platform decided about an own model; POST answers to it, once."""
    actor = actor_of(request)
    # A member's: everybody else finds nothing, platform admins included.
    model = access_model(actor, owner, name)
    if not list_accounts(actor).filter(pk=model.account_id).exists():
        raise NotFoundError("No such model.")
    access_model(actor, owner, name, "publish")
    takedown = selectors.find_takedown(model)
    form = AppealForm(request.POST if request.method == "POST" else None)
    status = 422 if form.is_bound else 200
    if form.is_bound and takedown is None:
        form.add_error(None, "There is nothing to answer to.")
        status = 409
    elif takedown is not None and form.is_valid():
        try:
            takedowns.appeal(actor=actor, takedown=takedown, text=form.cleaned_data["text"])
        except MarketplaceError as error:
            add_problem(form, error)
            status = error.http_status
        else:
            messages.success(request, "Thank you. Another look is taken, and you get a mail.")
            return redirect("marketplace:appeal", owner, name)
    context = {
        "model": model,
        "takedown": takedown,
        "takedowns": selectors.list_takedowns(model),
        "form": form,
    }
    return render(request, "marketplace/appeal.html", context, status=status)


@platform_admin_required
@require_safe
def reports(request: HttpRequest) -> HttpResponse:
    """Open reports, oldest first; the decided ones; or appeals."""
    show = request.GET.get("show", "open")
    if show == "appeals":
        context = {"show": show, "page": page_of(request, selectors.list_appeals(), PAGE_SIZE)}
    else:
        rows = selectors.list_reports(is_open=show != "decided")
        context = {"show": show, "page": page_of(request, rows, PAGE_SIZE)}
    return render(request, "marketplace/platform/reports.html", context)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def report(request: HttpRequest, report_id: UUID) -> HttpResponse:
    """One report with the others about the same model; POST decides them all."""
    row = selectors.get_report(report_id)
    decision = request.POST.get("decision", "")
    form = DeedForm(
        request.POST if request.method == "POST" else None, templates=[*DISMISSALS, *TAKEDOWNS]
    )
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                services.decide_report(
                    actor=actor_of(request),
                    report=row,
                    decision=decision,
                    reason=form.cleaned_data["reason"],
                )
            except MarketplaceError as error:
                add_problem(form, error)
                status = error.http_status
                row = selectors.get_report(report_id)
            else:
                messages.success(request, f"Decided: {_WORDS[decision]}.")
                return redirect("marketplace:reports")
    others = selectors.list_reports_of(row.model).exclude(pk=row.pk)
    context = {
        "report": row,
        "model": row.model,
        "others": others[:PAGE_SIZE],
        "open_count": others.filter(state=Report.State.OPEN).count(),
        "takedowns": selectors.list_takedowns(row.model),
        "will": foretell_model(row.model),
        "form": form,
        "is_open": row.state == Report.State.OPEN,
    }
    return render(request, "marketplace/platform/report.html", context, status=status)


_WORDS = {
    "dismiss": "the model stays as it is",
    "warn": "the owner is warned",
    "suspend": "the model is suspended",
}


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def model_suspend(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Say what suspending a model stops; POST does it."""
    model = get_model(owner, name)

    def do(reason: str) -> HttpResponse:
        kind = Takedown.Kind.SUSPENSION
        takedowns.impose(actor=actor_of(request), model=model, kind=kind, reason=reason)
        messages.success(request, f"{model} is suspended.")
        return redirect("marketplace:platform-account", owner)

    return ask_or_do(
        request,
        do=do,
        title=f"Suspend {model}",
        button="Suspend the model",
        back=reverse("marketplace:platform-account", args=[owner]),
        consequences=foretell_model(model),
        lede="Its owners get a mail with the reason, and can appeal.",
        form=DeedForm(request.POST or None, templates=TAKEDOWNS),
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def model_reinstate(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Ask why; POST lets a suspended model be served again."""
    model = get_model(owner, name)

    def do(reason: str) -> HttpResponse:
        takedowns.reinstate(actor=actor_of(request), model=model, reason=reason)
        messages.success(request, f"{model} is not suspended any more.")
        return redirect("marketplace:platform-account", owner)

    return ask_or_do(
        request,
        do=do,
        title=f"Reinstate {model}",
        button="Reinstate the model",
        back=reverse("marketplace:platform-account", args=[owner]),
        consequences=[
            "The model is in the catalogue again.",
            "Versions that a channel names are loaded again; that takes as long as a cold start.",
        ],
        lede="Its owners get a mail with the reason.",
        is_harm=False,
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def appeal_answer(request: HttpRequest, takedown_id: UUID) -> HttpResponse:
    """An owner's answer to a decision; POST says whether the decision stands."""
    takedown = selectors.get_takedown(takedown_id)
    form = DeedForm(request.POST if request.method == "POST" else None)
    status = 422 if form.is_bound else 200
    if form.is_valid() and request.POST.get("decision") in ("uphold", "lift"):
        try:
            takedowns.answer_appeal(
                actor=actor_of(request),
                takedown=takedown,
                is_upheld=request.POST["decision"] == "uphold",
                reason=form.cleaned_data["reason"],
            )
        except MarketplaceError as error:
            add_problem(form, error)
            status = error.http_status
            takedown = selectors.get_takedown(takedown_id)
        else:
            messages.success(request, "Answered. The owner gets a mail.")
            return redirect(f"{reverse('marketplace:reports')}?show=appeals")
    context = {
        "takedown": takedown,
        "model": takedown.model,
        "form": form,
        "is_open": takedown.appealed_at is not None and takedown.answered_at is None,
    }
    return render(request, "marketplace/platform/appeal.html", context, status=status)
