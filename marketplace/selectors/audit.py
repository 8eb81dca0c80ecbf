"""Search the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.db.models import QuerySet

from marketplace.models import Account, AuditEvent

_UTC = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for; empty is everything."""

    actor: str = ""
    account: str = ""
    action: str = ""
    object: str = ""
    since: date | None = None
    until: date | None = None


def search_events(search: Search) -> QuerySet[AuditEvent]:
    """Events that fit, the latest first.

    `actor` and `action` may be beginnings (`user:`, `account.`); `object` is an id, or a type
    such as `marketplace.account`. The last day is part of what is found.
    """
    events = AuditEvent.objects.order_by("-seq")
    if search.actor:
        prefix = search.actor if ":" in search.actor else f"user:{search.actor}"
        events = events.filter(actor__startswith=prefix)
    if search.account:
        account = Account.objects.filter(slug=search.account).first()
        if account is None:
            return events.none()
        events = events.filter(account_id=account.pk)
    if search.action:
        events = events.filter(action__startswith=search.action)
    if search.object:
        is_type = "." in search.object
        events = events.filter(**{"object_type" if is_type else "object_id": search.object})
    if search.since is not None:
        events = events.filter(at__gte=_midnight(search.since))
    if search.until is not None:
        events = events.filter(at__lt=_midnight(search.until + timedelta(days=1)))
    return events


def find_head() -> AuditEvent | None:
    """The last event: its hash stands for all before it."""
    return AuditEvent.objects.order_by("-seq").first()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), _UTC)
