"""How a model is kept from being copied: its budgets, and who asks it in an odd way."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from inference.forms.budget import AccountBudgetForm
from inference.selectors import abuse
from inference.selectors.onboarding import access_own_model
from inference.services import query_budget
from inference.services.abuse import ALERT_SCORE
from marketplace.context import actor_of
from marketplace.core.errors import InvalidInputError
from marketplace.forms.limits import GuardForm
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel
from marketplace.selectors.access import access_model, has_right
from marketplace.services.catalog import GUARD_FIELDS, put_model


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def protection(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The Protection page of an own model; who may push it sets its budgets here."""
    actor = actor_of(request)
    is_change = request.method == "POST"
    model = (
        access_model(actor, owner, name, "push")
        if is_change
        else access_own_model(actor, owner, name)
    )
    initial = {key: getattr(model, key) for key in GUARD_FIELDS}
    form = GuardForm(request.POST if is_change else None, initial=initial)
    if form.is_valid():
        try:
            put_model(actor=actor, account=model.account, name=name, fields=form.cleaned_data)
        except InvalidInputError as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved. It is valid for every request from now on.")
            return redirect("inference:protection", owner, name)
    return _render(request, model, form)


@login_required
@require_POST
def account_budget(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Give one consumer a budget of its own, or with `remove` take it away."""
    actor = actor_of(request)
    model = access_model(actor, owner, name, "push")
    if slug := request.POST.get("remove"):
        query_budget.remove_budget(model=model, slug=slug, actor=actor)
        messages.success(request, "It has the budget of everybody again.")
        return redirect("inference:protection", owner, name)
    slugs = [one.slug for one in abuse.list_consumers(model)]
    form = AccountBudgetForm(slugs, request.POST)
    if not form.is_valid():
        guards = GuardForm(initial={key: getattr(model, key) for key in GUARD_FIELDS})
        return _render(request, model, guards, form)
    slug = form.cleaned_data["account"]
    query_budget.set_budget(model=model, slug=slug, fields=form.cleaned_data, actor=actor)
    messages.success(request, f"{slug} has a budget of its own now.")
    return redirect("inference:protection", owner, name)


def _render(
    request: HttpRequest,
    model: AIModel,
    form: GuardForm,
    account_form: AccountBudgetForm | None = None,
) -> HttpResponse:
    consumers = abuse.list_consumers(model)
    account_form = account_form or AccountBudgetForm([one.slug for one in consumers])
    context = {
        "account": model.account,
        "model": model,
        "form": form,
        "account_form": account_form,
        "can_push": has_right(actor_of(request), model.account, "push"),
        "consumers": consumers,
        "alert_score": ALERT_SCORE,
    }
    status = 422 if form.is_bound or account_form.is_bound else 200
    return render(request, "inference/protection.html", context, status=status)
