"""Custody of a version: who was given its key, who holds it now, and how to take it back."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from inference.forms.shredding import ShredForm
from inference.selectors import release_log
from inference.selectors.custody import describe_custody
from inference.selectors.onboarding import access_own_model
from inference.selectors.shredding import find_shred
from inference.services import release_log as services
from inference.services import shredding
from marketplace.context import actor_of
from marketplace.core.errors import ConflictError, InvalidInputError, UnavailableError
from marketplace.forms.problem import add_problem
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor, has_right, require_right
from marketplace.selectors.catalog import get_version
from marketplace.services.catalog import ARROWS
from marketplace.views.confirm import needs_confirmation

ENTRIES_SHOWN = 50


@login_required
@require_safe
def custody(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """The release log of a version, its live replicas, and what was demanded of them."""
    version = _own_version(request, owner, name, number)
    found = describe_custody(version)
    log = release_log.list_entries(version.pk).reverse()
    context = {
        "model": version.model,
        "version": version,
        "custody": found,
        "page": Paginator(log, ENTRIES_SHOWN).get_page(request.GET.get("page")),
        # Until the last node has let go of it, the page looks again by itself.
        "is_leaving": version.state == ModelVersion.State.WITHDRAWN and bool(found.held),
        "proof": find_shred(version),
        "can_shred": _can_shred(actor_of(request), version),
        "can_withdraw": has_right(actor_of(request), version.model.account, "publish")
        and ModelVersion.State.WITHDRAWN in ARROWS[version.state],
    }
    return render(request, "inference/custody.html", context)


@login_required
@require_safe
def export(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """The log as a file, with what is needed to check it without this site."""
    version = _own_version(request, owner, name, number)
    answer = JsonResponse(services.export(version), json_dumps_params={"indent": 1})
    file = f"{owner}-{name}-{number}-release-log.json"
    answer["Content-Disposition"] = f'attachment; filename="{file}"'
    return answer


@login_required
@require_http_methods(["GET", "POST"])
@needs_confirmation()
def shred(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """Ask for the name and a reason, then destroy the version's key for good."""
    version = _own_version(request, owner, name, number)
    actor = actor_of(request)
    if not actor.is_admin:
        require_right(actor, version.model.account, "publish")
    form = ShredForm(request.POST or None, subject=str(version))
    if form.is_valid():
        try:
            reason = form.cleaned_data["reason"]
            shredding.shred_version(version=version, actor=actor, reason=reason)
        except (InvalidInputError, ConflictError, UnavailableError) as error:
            add_problem(form, error)
        else:
            messages.success(request, f"The key of version {number} is destroyed.")
            return redirect("inference:custody", owner, name, number)
    context = {
        "model": version.model,
        "version": version,
        "form": form,
        "proof": find_shred(version),
        "is_possible": version.state in shredding.ENDED_STATES,
        "has_recovery": version.wrapped_keys.filter(recipient="creator").exists(),
    }
    status = 422 if form.is_bound else 200
    return render(request, "inference/shred.html", context, status=status)


def _can_shred(actor: Actor, version: ModelVersion) -> bool:
    """Whether to offer it: nothing is destroyed that could still be served."""
    may = actor.is_admin or has_right(actor, version.model.account, "publish")
    return may and version.state in shredding.ENDED_STATES and find_shred(version) is None


def _own_version(request: HttpRequest, owner: str, name: str, number: int) -> ModelVersion:
    return get_version(access_own_model(actor_of(request), owner, name), number)
