"""The time: aware, in UTC, from one place that tests can move."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def to_wire(moment: datetime) -> str:
    """ISO 8601 with microseconds and a Z, as the prediction envelope wants it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
