"""Read what the platform tells people now."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.models import AIModel, Announcement
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one

Audience = Announcement.Audience


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: list[Announcement]
    until_s: float


_lock = threading.Lock()
_kept: list[_Kept] = []


def list_announcements() -> QuerySet[Announcement]:
    """All of them, the latest first."""
    return Announcement.objects.select_related("created_by").order_by("-starts_at", "-pk")


def get_announcement(announcement_id: UUID) -> Announcement:
    """One of them.

    Raises:
        NotFoundError: None of this id.
    """
    return get_one(Announcement.objects.filter(pk=announcement_id), "No such announcement.")


def list_shown(actor: Actor, *, dismissed: Collection[str] = ()) -> list[Announcement]:
    """What this actor should see now, warnings first, without what it put away."""
    now = utc_now()
    found = [
        one
        for one in _rows()
        if one.starts_at <= now < one.ends_at
        and not (one.is_dismissible and str(one.pk) in dismissed)
        and _is_for(one, actor)
    ]
    found.sort(key=lambda one: one.tone != Announcement.Tone.WARN)
    return found[: limits.ANNOUNCEMENTS_SHOWN_MAX]


def forget_announcements() -> None:
    """Look again on the next page; other processes do within seconds."""
    with _lock:
        _kept.clear()


def _is_for(one: Announcement, actor: Actor) -> bool:
    match one.audience:
        case Audience.EVERYBODY:
            return True
        case Audience.STAFF:
            return actor.is_admin
        case Audience.CREATORS:
            return (
                actor.user is not None
                and AIModel.objects.filter(account__memberships__user=actor.user).exists()
            )
    return actor.user is not None


def _rows() -> list[Announcement]:
    """Those that are not over, the latest first; also what begins while they are kept."""
    now_s = time.monotonic()
    with _lock:
        if _kept and _kept[0].until_s > now_s:
            return _kept[0].rows
    rows = list(Announcement.objects.filter(ends_at__gt=utc_now()).order_by("-starts_at")[:100])
    with _lock:
        _kept[:] = [_Kept(rows, now_s + settings.PLATFORM_CACHE_S)]
    return rows
