"""How a version was sealed, checked and measured: a part of the model's page, and a page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.core.curve import draw_curve
from inference.selectors import evidence
from inference.selectors.progress import read_curve, read_measured_at
from inference.selectors.status import list_uptime
from inference.selectors.wake import find_temperature
from inference.views.panel import render_panel
from marketplace.context import actor_of
from marketplace.models import ModelVersion
from marketplace.selectors.access import access_model


@require_safe
def evidence_panel(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Speed and seals of what the model runs now."""
    model = access_model(actor_of(request), owner, name)
    version = evidence.find_prod_version(model)
    context: dict[str, Any] = {"model": model, "version": version}
    context["uptime"] = list_uptime(model)
    if version is not None:
        context |= _describe(version) | {"temperature": find_temperature(version)}
    return render_panel(request, "evidence", context, title=f"Evidence of {model}")


@require_safe
def evidence_page(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """All that is known of one version, to link to."""
    version = evidence.access_public_version(actor_of(request), owner, name, number)
    return render(request, "inference/evidence.html", {"model": version.model} | _describe(version))


@require_safe
def certificate(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """The benchmark certificate as JSON."""
    version = evidence.access_public_version(actor_of(request), owner, name, number)
    response = JsonResponse(evidence.describe_certificate(version), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = f'attachment; filename="{name}-{number}-certificate.json"'
    return response


def _describe(version: ModelVersion) -> dict[str, Any]:
    points = read_curve(version.certificate)
    return {
        "version": version,
        "evidence": evidence.describe_evidence(version),
        "points": points,
        "drawing": draw_curve(points),
        "facts": evidence.list_certificate_facts(version),
        "measured_at": read_measured_at(version.certificate),
    }
