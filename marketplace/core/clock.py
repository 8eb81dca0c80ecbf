"""The time: aware, in UTC, from one place that tests can move.

A process whose machine's clock is wrong can be told by how much: from then on it goes by the
clock that counts, which is the database's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

# Added to what the machine's clock says.
_correction = timedelta(0)
_MILLISECOND = timedelta(milliseconds=1)


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC) + _correction


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000 + _correction // _MILLISECOND


def correct(by: timedelta) -> None:
    """Add this to what the machine's clock says, from now on and in the whole process."""
    global _correction  # noqa: PLW0603 - there is one time in a process
    _correction = by


def read_correction() -> timedelta:
    """What is added to what the machine's clock says."""
    return _correction


def to_wire(moment: datetime) -> str:
    """ISO 8601 with microseconds and a Z, as the prediction envelope wants it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
