"""Which versions of a model are loaded, and which are unloaded while nobody calls them."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from inference.forms.wake import WakeForm
from inference.models import Deployment
from inference.selectors import wake as selectors
from inference.selectors.onboarding import access_own_model
from inference.services import wake as services
from marketplace.context import actor_of
from marketplace.core.errors import (
    AccountFrozenError,
    InsufficientCreditError,
    InvalidInputError,
    NotFoundError,
)
from marketplace.forms.problem import add_problem
from marketplace.models import AIModel
from marketplace.selectors.access import access_model, has_right

# Of a version's number, as the site's addresses have it.
NUMBER_LENGTH_MAX = 6


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def cold_start(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The deployments of an own model, and the policy of each."""
    actor = actor_of(request)
    is_change = request.method == "POST"
    model = (
        access_model(actor, owner, name, "push")
        if is_change
        else access_own_model(actor, owner, name)
    )
    changed: Deployment | None = None
    form: WakeForm | None = None
    if is_change:
        changed = _read_deployment(model, request.POST.get("version", ""))
        form = WakeForm(request.POST, auto_id=f"id_{changed.version.number}_%s")
        if form.is_valid():
            try:
                services.set_policy(actor=actor, deployment=changed, **form.policy)  # type: ignore[arg-type]
            except (InvalidInputError, InsufficientCreditError, AccountFrozenError) as error:
                add_problem(form, error)
            else:
                messages.success(request, f"Saved for version {changed.version.number}.")
                return redirect("inference:cold-start", owner, name)
    rows = [
        (found, form if form and found.deployment == changed else _make_form(found.deployment))
        for found in selectors.list_temperatures(model)
    ]
    context = {
        "model": model,
        "rows": rows,
        "can_push": has_right(actor, model.account, "push"),
        "warm_hour_nanos": settings.WARM_HOUR_NANOS,
    }
    status = 422 if is_change else 200
    return render(request, "inference/monitoring_cold_start.html", context, status=status)


def _read_deployment(model: AIModel, number: str) -> Deployment:
    if not (number.isascii() and number.isdecimal() and len(number) <= NUMBER_LENGTH_MAX):
        raise NotFoundError("This version is not deployed.")
    return selectors.get_deployment(model, int(number))


def _make_form(deployment: Deployment) -> WakeForm:
    seconds = deployment.idle_after_s
    # An odd time that came over the API is shown rounded up.
    minutes = None if seconds is None else -(-seconds // 60)
    initial = {"idle_minutes": minutes, "is_always_warm": deployment.is_always_warm}
    return WakeForm(initial=initial, auto_id=f"id_{deployment.version.number}_%s")
