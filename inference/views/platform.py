"""The platform's own pages about serving: its part of the overview, the fleet, and sealed files."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from inference.selectors import dead_job, fleet
from inference.selectors.review import review_files
from inference.services.gateway_health import ask_gateway
from marketplace.context import actor_of
from marketplace.selectors.access import access_version
from marketplace.selectors.platform import Waiting
from marketplace.views.platform import platform_admin_required

SHORT_SHOWN = 20


@platform_admin_required
@require_safe
def platform_panel(request: HttpRequest) -> HttpResponse:
    """Nodes, deployments and the gateway at a glance."""
    keys = Waiting(
        "New signing keys",
        f"{reverse('admin:inference_signingkey_changelist')}",
        *fleet.count_new_signing_keys(),
    )
    dead = Waiting("Dead predictions", reverse("inference:dead-jobs"), *dead_job.count_dead())
    context = {
        "waiting": [keys, dead],
        "totals": fleet.count_fleet(),
        "gateway": ask_gateway(),
    }
    return render(request, "inference/platform/panels/overview.html", context)


@platform_admin_required
@require_safe
def fleet_map(request: HttpRequest) -> HttpResponse:
    """Every node with what it holds; the map itself looks again by itself."""
    context = {
        "nodes": fleet.list_fleet(),
        "totals": fleet.count_fleet(),
        "short": list(fleet.list_short_deployments()[:SHORT_SHOWN]),
    }
    is_part = request.htmx  # type: ignore[attr-defined]
    name = "panels/fleet" if is_part else "fleet"
    return render(request, f"inference/platform/{name}.html", context)


@platform_admin_required
@require_safe
def review_panel(request: HttpRequest, version_id: UUID) -> HttpResponse:
    """Files and scan of a version in review."""
    version = access_version(actor_of(request), version_id)
    context = {"version": version, "review": review_files(version)}
    return render(request, "inference/platform/panels/review.html", context)
