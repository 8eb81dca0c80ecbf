"""Read what was published of trouble and planned work, as far as the reader may see it.

An incident that names a part of the platform is everybody's. One that names models alone is of
those who may see one of them; what else it names stays unsaid.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, Incident, IncidentUpdate
from marketplace.selectors.access import ANONYMOUS, Actor, list_visible_models
from marketplace.selectors.found import get_one

Impact = Incident.Impact

# Who opens any page should know of these.
BANNER_IMPACTS = (Impact.MAJOR, Impact.CRITICAL)


@dataclass(frozen=True, slots=True)
class Month:
    """What happened in a month, the latest first."""

    starts_at: datetime
    incidents: list[Incident]


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: list[Incident]
    until_s: float


_lock = threading.Lock()
_kept: list[_Kept] = []


def list_visible_incidents(actor: Actor) -> QuerySet[Incident]:
    """Those that the actor may see, the latest first; with their updates and visible models.

    Each carries `shown_updates`, the latest first, and `shown_models`.
    """
    visible = list_visible_models(actor)
    of_model = Incident.named_models.through.objects.filter(
        incident=OuterRef("pk"), aimodel__in=visible.order_by()
    )
    return (
        Incident.objects.filter(~Q(parts=[]) | Exists(of_model))
        .prefetch_related(
            # Their authors are nobody's business here.
            Prefetch(
                "updates",
                IncidentUpdate.objects.defer("author").order_by("-number"),
                to_attr="shown_updates",
            ),
            Prefetch("named_models", visible, to_attr="shown_models"),
        )
        .order_by("-created_at", "-pk")
    )


def access_incident(actor: Actor, incident_id: UUID) -> Incident:
    """One of them.

    Raises:
        NotFoundError: None of this id, or one that the actor may not see.
    """
    return get_one(list_visible_incidents(actor).filter(pk=incident_id), "No such incident.")


def list_open(actor: Actor) -> list[Incident]:
    """Trouble that is not over, the latest first."""
    rows = list_visible_incidents(actor).filter(resolved_at=None)
    return list(rows.exclude(impact=Impact.MAINTENANCE)[: limits.INCIDENTS_OPEN_SHOWN_MAX])


def list_planned(actor: Actor) -> list[Incident]:
    """Maintenance that is not over, what comes first in front."""
    rows = list_visible_incidents(actor).filter(resolved_at=None, impact=Impact.MAINTENANCE)
    return list(rows.order_by("planned_from", "pk")[: limits.INCIDENTS_OPEN_SHOWN_MAX])


def list_past(actor: Actor) -> QuerySet[Incident]:
    """What is over, the latest first."""
    return list_visible_incidents(actor).filter(resolved_at__isnull=False)


def list_latest(actor: Actor) -> list[Incident]:
    """What has changed last, open or over: what a feed holds."""
    rows = list_visible_incidents(actor).order_by("-updated_at", "-pk")
    return list(rows[: limits.INCIDENTS_PAST_SHOWN_MAX])


def list_of_model(actor: Actor, model: AIModel) -> list[Incident]:
    """The latest that name a model; the actor may see it."""
    rows = list_visible_incidents(actor).filter(named_models=model)
    return list(rows[: limits.INCIDENTS_PAST_SHOWN_MAX])


def list_all() -> QuerySet[Incident]:
    """Every one, for admins: what is open first, then the latest."""
    return Incident.objects.order_by("-resolved_at", "-created_at", "-pk")


def get_incident(incident_id: UUID) -> Incident:
    """One with all that is known of it, for admins.

    Raises:
        NotFoundError: None of this id.
    """
    updates = IncidentUpdate.objects.select_related("author").order_by("-number")
    models = AIModel.objects.select_related("account").order_by("account__slug", "name")
    found = (
        Incident.objects.prefetch_related(
            Prefetch("updates", updates, to_attr="shown_updates"),
            Prefetch("named_models", models, to_attr="shown_models"),
        )
        .filter(pk=incident_id)
        .first()
    )
    if found is None:
        raise NotFoundError("No such incident.")
    return found


def group_by_month(incidents: Iterable[Incident]) -> list[Month]:
    """The same in their order, by the month that each began in (UTC)."""
    months: list[Month] = []
    for one in incidents:
        month = one.created_at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if not months or months[-1].starts_at != month:
            months.append(Month(month, []))
        months[-1].incidents.append(one)
    return months


def list_on_banner() -> list[Incident]:
    """Open trouble that every page tells of: what everybody may see, kept for a few seconds."""
    now_s = time.monotonic()
    with _lock:
        if _kept and _kept[0].until_s > now_s:
            return _kept[0].rows
    rows = list_visible_incidents(ANONYMOUS).filter(resolved_at=None, impact__in=BANNER_IMPACTS)
    found = list(rows.prefetch_related(None)[: limits.ANNOUNCEMENTS_SHOWN_MAX])
    with _lock:
        _kept[:] = [_Kept(found, now_s + settings.PLATFORM_CACHE_S)]
    return found


def forget_incidents() -> None:
    """Look again on the next page; other processes do within seconds."""
    with _lock:
        _kept.clear()
