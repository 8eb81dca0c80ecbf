"""Shared runs: the wish to share one, its page, and the list in which it is revoked."""

from __future__ import annotations

import json

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.forms.run import ShareForm
from inference.models import SharedRun
from inference.selectors import run as runs
from inference.services.run import RUNS_PER_ACCOUNT_MAX, revoke_run, share_run
from inference.views.panel import ask_to_sign_in
from inference.views.playground import describe_outputs
from marketplace.context import actor_of, requested_account
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.selectors.access import has_right
from marketplace.views.paging import page_of
from strongroom.interface import Interface


@login_required
@require_safe
def shared_runs(request: HttpRequest) -> HttpResponse:
    """What an account shares, and where that ends."""
    account = requested_account(request)
    context = {
        "account": account,
        "page": page_of(request, runs.list_runs(actor_of(request), account)),
        "can_revoke": has_right(actor_of(request), account, "predict"),
        "runs_max": RUNS_PER_ACCOUNT_MAX,
    }
    return render(request, "inference/runs.html", context)


@require_POST
def share(request: HttpRequest) -> HttpResponse:
    """Keep a run that was just shown; answers its address."""
    if not request.user.is_authenticated:
        return ask_to_sign_in(request)
    account = requested_account(request, "predict")
    form = ShareForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("Say how long the run shall be kept.")
    cleaned = form.cleaned_data
    try:
        run = share_run(actor_of(request), account, offer=cleaned["offer"], days=cleaned["days"])
    except MarketplaceError as error:
        if not request.htmx:  # type: ignore[attr-defined]
            raise
        return render(request, "inference/panels/shared.html", {"error": error}, status=422)
    if not request.htmx:  # type: ignore[attr-defined]
        return redirect("inference:run", run.token)
    context = {"run": run, "run_url": _address(run)}
    return render(request, "inference/panels/shared.html", context)


@require_safe
def shared_run(request: HttpRequest, token: str) -> HttpResponse:
    """One run, for whoever has its address and may see the model."""
    actor = actor_of(request)
    run = runs.access_run(actor, token)
    interface = Interface.parse(run.version.interface)
    context = {
        "run": run,
        "model": run.version.model,
        "run_url": _address(run),
        "inputs": _describe_inputs(run),
        "outputs": describe_outputs(interface, run.output),
        "is_own": has_right(actor, run.account, "predict"),
    }
    response = render(request, "inference/run.html", context)
    # Who was sent the address may read it; the world's indexes may not.
    response["X-Robots-Tag"] = "noindex, nofollow"
    response["Cache-Control"] = "private, no-store"
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: HttpRequest, token: str) -> HttpResponse:
    """Ask, then end the sharing of an own run."""
    actor = actor_of(request)
    run = runs.access_own_run(actor, token)
    if request.method == "POST":
        slug = run.account.slug
        revoke_run(actor, run)
        messages.success(request, "The run is deleted. Its address leads nowhere now.")
        return redirect(f"{reverse('inference:runs')}?account={slug}")
    return render(request, "inference/run_revoke.html", {"run": run, "run_url": _address(run)})


def _address(run: SharedRun) -> str:
    return f"{settings.WEB_URL}{reverse('inference:run', args=[run.token])}"


def _describe_inputs(run: SharedRun) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "text": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        }
        for name, value in run.input.items()
    ]
