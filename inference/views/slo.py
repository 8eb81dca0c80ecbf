"""Promise something of a model, from its monitoring page."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from inference.forms.slo import SLOForm
from inference.selectors.onboarding import access_own_model
from inference.selectors.slo import find_slo
from inference.services import slo as services
from marketplace.context import actor_of
from marketplace.core.errors import InvalidInputError
from marketplace.forms.problem import add_problem
from marketplace.selectors.access import access_model, has_right

DEFAULTS = {
    "availability_target": 99_500,
    "window_days": 28,
    "latency_ms": None,
    "latency_target": 95_000,
}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def slo(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The targets of a model; `remove` takes them back."""
    actor = actor_of(request)
    is_change = request.method == "POST"
    model = (
        access_model(actor, owner, name, "push")
        if is_change
        else access_own_model(actor, owner, name)
    )
    if is_change and "remove" in request.POST:
        services.remove_slo(actor=actor, model=model)
        messages.success(request, "Nothing is promised any more.")
        return redirect("inference:monitoring", owner, name)
    found = find_slo(model)
    initial = {key: getattr(found, key) if found else value for key, value in DEFAULTS.items()}
    form = SLOForm(request.POST if is_change else None, initial=initial)
    if form.is_valid():
        try:
            services.set_slo(actor=actor, model=model, **form.cleaned_data)
        except InvalidInputError as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved. It is counted over the past window as well.")
            return redirect("inference:monitoring", owner, name)
    context = {
        "model": model,
        "form": form,
        "slo": found,
        "can_push": has_right(actor, model.account, "push"),
    }
    status = 422 if form.is_bound else 200
    return render(request, "inference/monitoring_slo.html", context, status=status)
