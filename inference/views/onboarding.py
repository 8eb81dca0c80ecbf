"""Panels about versions: the list of a model, and how they come in, live."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from inference.selectors import onboarding as onboardings
from inference.selectors import progress
from inference.selectors.wake import find_temperature
from inference.views.panel import panel_login_required, render_panel
from marketplace.context import actor_of, requested_account
from marketplace.core.describe import describe_policy
from marketplace.models import ModelVersion
from marketplace.selectors.access import access_version
from marketplace.views.paging import page_of

# On a page of the list on a model's page.
VERSIONS_SHOWN = 50
# How many versions an account sees on its way in at one glance.
RECENT_SHOWN = 5


@panel_login_required
@require_safe
def versions_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The versions of an own model."""
    model = onboardings.access_own_model(actor_of(request), owner, name)
    page = page_of(request, onboardings.list_versions(model), VERSIONS_SHOWN)
    found = [progress.describe_progress(version) for version in page]
    # The page of the model hands its own number on; it leads from one to the next.
    url = f"{reverse('inference:versions-panel', args=[owner, name])}?page={page.number}"
    context = _live(request, found, url) | {"model": model, "versions": found, "page": page}
    return _answer(request, "versions", context, title=f"Versions of {model}")


@panel_login_required
@require_safe
def onboarding_panel(request: HttpRequest) -> HttpResponse:
    """What is on its way in for an account."""
    account = requested_account(request)
    versions = onboardings.list_recent_versions(account)[:RECENT_SHOWN]
    found = [progress.describe_progress(version) for version in versions]
    url = f"{reverse('inference:onboarding-panel')}?account={account.slug}"
    context = _live(request, found, url) | {"account": account, "versions": found}
    return _answer(request, "onboarding", context, title="Onboarding")


@panel_login_required
@require_safe
def version_panel(request: HttpRequest, version_id: UUID) -> HttpResponse:
    """The steps of one version, with their logs."""
    version = access_version(actor_of(request), version_id)
    version = onboardings.with_steps(ModelVersion.objects.filter(pk=version.pk)).get()
    found = progress.describe_progress(version)
    url = reverse("inference:version-panel", args=[version.pk])
    context = _live(request, [found], url) | {
        "progress": found,
        "version": version,
        "temperature": find_temperature(version),
        "curve": progress.read_curve(version.certificate),
        "facts": progress.read_facts(version.certificate),
        "shown": describe_policy(version.output_policy),
        "measured_at": progress.read_measured_at(version.certificate),
        "crumb": str(version.model),
        "crumb_url": _models_page(version),
    }
    return _answer(request, "version", context, title=f"Version {version.number}")


def _models_page(version: ModelVersion) -> str:
    model = version.model
    return reverse("marketplace:model-versions", args=[model.account.slug, model.name])


def _live(request: HttpRequest, found: list[progress.VersionProgress], url: str) -> dict[str, Any]:
    """What a panel needs to look again by itself: where, whether, and what it has seen."""
    mark = progress.digest_progress(found)
    separator = "&" if "?" in url else "?"
    return {
        "poll_url": f"{url}{separator}seen={mark}",
        "is_live": any(one.is_moving for one in found),
        "is_seen": request.GET.get("seen") == mark,
    }


def _answer(
    request: HttpRequest, name: str, context: dict[str, Any], *, title: str
) -> HttpResponse:
    if request.htmx and context["is_seen"]:  # type: ignore[attr-defined]
        # Nothing new: what the person reads or has unfolded stays as it is.
        return HttpResponse(status=204)
    return render_panel(request, name, context, title=title)
