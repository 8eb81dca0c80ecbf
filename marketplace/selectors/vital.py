"""Read signs of life and results of checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from marketplace.core.clock import utc_now
from marketplace.models import Vital

# The schedule sends a sign every 30 s; three missed ones are no hiccup.
WORKER_QUIET_AFTER = timedelta(seconds=100)
# Workers that were replaced are forgotten after a while.
WORKER_GONE_AFTER = timedelta(days=1)
# The chain is checked once an hour.
CHECK_STALE_AFTER = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Pulse:
    """A part of the product as the overview shows it."""

    label: str
    at: datetime | None
    is_good: bool
    text: str


def list_workers() -> list[Pulse]:
    """Each machine whose worker was heard in the last day, by name."""
    now = utc_now()
    rows = Vital.objects.filter(name__startswith="worker:", at__gt=now - WORKER_GONE_AFTER)
    return [
        Pulse(
            label=row.name.removeprefix("worker:"),
            at=row.at,
            is_good=row.at > now - WORKER_QUIET_AFTER,
            text="alive" if row.at > now - WORKER_QUIET_AFTER else "silent",
        )
        for row in rows.order_by("name")
    ]


def find_pulse(name: str, label: str, *, stale_after: timedelta = CHECK_STALE_AFTER) -> Pulse:
    """The last result of a check; one that is too old is no good one."""
    row = Vital.objects.filter(name=name).first()
    if row is None:
        return Pulse(label, None, is_good=False, text="was never checked")
    if row.state == Vital.State.BAD:
        return Pulse(label, row.at, is_good=False, text=row.detail or "broken")
    if row.at < utc_now() - stale_after:
        return Pulse(label, row.at, is_good=False, text="was not checked for long")
    return Pulse(label, row.at, is_good=True, text=row.detail or "in order")
