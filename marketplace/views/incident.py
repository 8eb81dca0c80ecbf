"""Incidents, for platform admins: opened and told of, each word looked at before it is public."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from marketplace.context import actor_of
from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError, MarketplaceError
from marketplace.forms.incident import IncidentForm, UpdateForm
from marketplace.forms.problem import add_problem
from marketplace.models import Incident, Part
from marketplace.selectors import incident as selectors
from marketplace.services import incident as services
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, platform_admin_required

PUBLIC = "Published. Everybody sees it within seconds."


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def incidents(request: HttpRequest) -> HttpResponse:
    """All of them; POST shows what a new one will look like, and a second one publishes it."""
    form = IncidentForm(request.POST if request.method == "POST" else None)
    preview, status = None, 422 if form.is_bound else 200
    if form.is_valid():
        if form.was_looked_at:
            try:
                made = services.open_incident(actor=actor_of(request), **_fields(form))
            except MarketplaceError as error:
                add_problem(form, error)
            else:
                messages.success(request, PUBLIC)
                return redirect("marketplace:platform-incident", made.pk)
        else:
            preview, status = _preview(form), 200
            form.show()
    context = {
        "form": form,
        "preview": preview,
        "page": page_of(request, selectors.list_all(), PAGE_SIZE),
    }
    return render(request, "marketplace/platform/incidents.html", context, status=status)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def incident(request: HttpRequest, incident_id: UUID) -> HttpResponse:
    """One with its authors; POST shows an update as it will be read, and then publishes it."""
    found = selectors.get_incident(incident_id)
    form = UpdateForm(
        request.POST if request.method == "POST" else None,
        initial={"seen": found.updates_count, "state": found.state},
        states=services.list_states(found.impact),
    )
    preview, status = None, 422 if form.is_bound else 200
    if form.is_valid():
        answers = form.cleaned_data
        if form.was_looked_at:
            try:
                services.add_update(
                    actor=actor_of(request),
                    incident=found,
                    seen=answers["seen"],
                    state=answers["state"],
                    text=answers["text"],
                )
            except MarketplaceError as error:
                add_problem(form, error)
                status = error.http_status
                if isinstance(error, ConflictError):
                    found = selectors.get_incident(incident_id)
                    # The page shows the other's update now: what is sent next has read it.
                    form.show_anew(seen=found.updates_count)
            else:
                messages.success(request, PUBLIC)
                return redirect("marketplace:platform-incident", found.pk)
        else:
            preview, status = answers, 200
            form.show()
    context = {"one": found, "form": form, "preview": preview}
    return render(request, "marketplace/platform/incident.html", context, status=status)


def _fields(form: IncidentForm) -> dict[str, Any]:
    return {name: one for name, one in form.cleaned_data.items() if name != "looked_at"}


def _preview(form: IncidentForm) -> dict[str, Any]:
    """The new incident as people will read it, and who will see it on top of every page."""
    answers = form.cleaned_data
    row = Incident(
        title=answers["title"],
        impact=answers["impact"],
        parts=answers["parts"],
        state=answers["state"],
        planned_from=answers["planned_from"],
        planned_until=answers["planned_until"],
        created_at=utc_now(),
    )
    return {
        "row": row,
        "text": answers["text"],
        "models": answers["models"],
        "is_on_banner": row.impact in selectors.BANNER_IMPACTS,
        "labels": [part.label for part in Part if part.value in row.parts],
    }
