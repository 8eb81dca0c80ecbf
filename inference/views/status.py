"""How a model is served, for everybody who may see it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.selectors.evidence import find_prod_version
from inference.selectors.metric import LITTLE
from inference.selectors.status import list_uptime, read_availability
from marketplace.context import actor_of
from marketplace.core.uptime import list_legend
from marketplace.selectors.access import access_model
from marketplace.selectors.incident import list_of_model
from marketplace.views.meta import describe_page


@require_safe
def model_status(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """Replicas now, uptime by day, and incidents that name the model."""
    actor = actor_of(request)
    model = access_model(actor, owner, name)
    version = find_prod_version(model)
    context = {
        "model": model,
        "version": version,
        "availability": read_availability(version) if version else None,
        "days": list_uptime(model),
        "little": LITTLE,
        "legend": list_legend(),
        "incidents": list_of_model(actor, model),
        "meta": describe_page(
            f"Status of {model.title}",
            f"How {model} is served now, its uptime by day, and incidents.",
            request.path,
        ),
    }
    return render(request, "inference/status.html", context)
