"""The public status: how the parts of the platform are and were, and what was said of it.

The feeds are read as nobody, so that everybody may keep them; the pages as whoever asks.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import get_conditional_response, patch_cache_control
from django.views.decorators.http import require_safe

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.uptime import Day, list_legend
from marketplace.models import Incident
from marketplace.selectors import incident as incidents
from marketplace.selectors import status as statuses
from marketplace.selectors.access import ANONYMOUS
from marketplace.selectors.status import PartStatus
from marketplace.views.meta import absolute, describe_page
from marketplace.views.paging import page_of

# Parts are looked at once a minute: a reader who asks more often learns nothing.
KEPT_S = 30
ATOM = "application/atom+xml; charset=utf-8"


@require_safe
def status(request: HttpRequest) -> HttpResponse:
    """The platform's parts, what is open, what is planned, and what was."""
    actor = actor_of(request)
    parts = statuses.list_parts()
    page = page_of(request, incidents.list_past(actor), limits.INCIDENTS_PAST_SHOWN_MAX)
    context = {
        "parts": parts,
        "summary": statuses.summarize(parts),
        "sampled_at": max((one.sampled_at for one in parts if one.sampled_at), default=None),
        "incidents": incidents.list_open(actor),
        "planned": incidents.list_planned(actor),
        "page": page,
        "months": incidents.group_by_month(page),
        "legend": list_legend(),
        "meta": describe_page(
            "Status of Strongroom",
            "How the parts of the platform are now, 90 days of uptime, and incidents.",
            request.path,
            is_indexed=page.number == 1,
        ),
    }
    return render(request, "marketplace/status.html", context)


@require_safe
def incident(request: HttpRequest, incident_id: UUID) -> HttpResponse:
    """One incident with all its updates."""
    found = incidents.access_incident(actor_of(request), incident_id)
    context = {
        "one": found,
        "meta": describe_page(
            found.title, f"{found.get_impact_display()}: {found.get_state_display()}.", request.path
        ),
    }
    return render(request, "marketplace/incident.html", context)


@require_safe
def status_json(request: HttpRequest) -> HttpResponseBase:
    """The same for programs."""
    parts = statuses.list_parts()
    document = {
        "page": absolute(reverse("marketplace:status")),
        "feed": absolute(reverse("marketplace:status-feed")),
        "state": statuses.summarize(parts).state.value,
        "parts": [_describe_part(one) for one in parts],
        "incidents": [_describe_incident(one) for one in incidents.list_open(ANONYMOUS)],
        "maintenance": [_describe_incident(one) for one in incidents.list_planned(ANONYMOUS)],
        "latest": [_describe_incident(one) for one in incidents.list_latest(ANONYMOUS)],
    }
    return _answer(request, JsonResponse(document))


@require_safe
def feed(request: HttpRequest) -> HttpResponseBase:
    """What was published of incidents, as Atom (RFC 4287)."""
    rows = incidents.list_latest(ANONYMOUS)
    address = absolute(reverse("marketplace:status-feed"))
    # Of a feed without entries: it never changed.
    updated = rows[0].updated_at if rows else datetime.fromtimestamp(0, UTC)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>{escape(address)}</id>",
        "<title>Incidents of Strongroom</title>",
        "<author><name>Strongroom</name></author>",
        f'<link rel="self" href={quoteattr(address)}/>',
        f'<link rel="alternate" href={quoteattr(absolute(reverse("marketplace:status")))}/>',
        f"<updated>{updated.isoformat()}</updated>",
        *(_describe_entry(one) for one in rows),
        "</feed>",
    ]
    return _answer(request, HttpResponse("\n".join(lines) + "\n", content_type=ATOM))


def _answer(request: HttpRequest, response: HttpResponse) -> HttpResponseBase:
    """With a tag of its content, and nothing at all for who has that already."""
    etag = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    response["ETag"] = etag
    patch_cache_control(response, public=True, max_age=KEPT_S)
    found = get_conditional_response(request, etag=etag, response=response)
    assert found is not None
    return found


def _describe_part(one: PartStatus) -> dict[str, Any]:
    return {
        "name": one.part.value,
        "label": one.label,
        "state": one.state.value,
        "measured_at": one.sampled_at.isoformat() if one.sampled_at else None,
        "uptime": _share(one.share),
        "days": [_describe_day(day) for day in one.days if day.total],
    }


def _describe_day(day: Day) -> dict[str, Any]:
    return {
        "day": day.day.isoformat(),
        "uptime": _share(day.share),
        "up_minutes": day.good,
        "degraded_minutes": day.degraded,
        "down_minutes": day.bad,
    }


def _share(share: int | None) -> float | None:
    return None if share is None else share / 1000


def _describe_incident(one: Incident) -> dict[str, Any]:
    return {
        "id": str(one.pk),
        "url": _address(one),
        "title": one.title,
        "impact": one.impact,
        "state": one.state,
        "parts": one.parts,
        "models": [str(model) for model in one.shown_models],  # type: ignore[attr-defined]
        "planned_from": one.planned_from.isoformat() if one.planned_from else None,
        "planned_until": one.planned_until.isoformat() if one.planned_until else None,
        "created_at": one.created_at.isoformat(),
        "updated_at": one.updated_at.isoformat(),
        "resolved_at": one.resolved_at.isoformat() if one.resolved_at else None,
        "updates": [
            {"state": line.state, "text": line.text, "created_at": line.created_at.isoformat()}
            for line in one.shown_updates  # type: ignore[attr-defined]
        ],
    }


def _describe_entry(one: Incident) -> str:
    updates = one.shown_updates  # type: ignore[attr-defined]
    about = [*one.part_labels, *(str(model) for model in one.shown_models)]  # type: ignore[attr-defined]
    text = "\n\n".join(
        f"{line.created_at:%Y-%m-%d %H:%M} UTC, {line.get_state_display()}: {line.text}"
        for line in updates
    )
    return "\n".join(
        [
            "<entry>",
            f"<id>urn:uuid:{one.pk}</id>",
            f"<title>{escape(one.title)}</title>",
            f'<link rel="alternate" href={quoteattr(_address(one))}/>',
            f"<published>{one.created_at.isoformat()}</published>",
            f"<updated>{one.updated_at.isoformat()}</updated>",
            f"<category term={quoteattr(one.impact)}/>",
            f"<summary>{escape(', '.join(about))}</summary>",
            f'<content type="text">{escape(text)}</content>',
            "</entry>",
        ]
    )


def _address(one: Incident) -> str:
    return absolute(reverse("marketplace:incident", args=[one.pk]))
