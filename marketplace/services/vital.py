"""Note signs of life, and the results of checks that run by themselves."""

from __future__ import annotations

import socket

from marketplace.core.clock import utc_now
from marketplace.models import Vital
from marketplace.services.audit import find_first_break

WORKER = "worker:"
AUDIT = "audit"


def note_vital(name: str, *, is_good: bool, detail: str = "") -> None:
    """Write the last word of a part about itself."""
    state = Vital.State.GOOD if is_good else Vital.State.BAD
    detail = detail[: Vital._meta.get_field("detail").max_length or 0]
    row = {"at": utc_now(), "state": state, "detail": detail}
    Vital.objects.update_or_create(name=name[:80], defaults=row)


def note_worker() -> None:
    """A task that the schedule sent has reached a worker: both are alive."""
    note_vital(f"{WORKER}{socket.gethostname()}", is_good=True)


def check_audit_log() -> int | None:
    """Check the audit log's chain and note the result; returns the first bad row."""
    seq = find_first_break()
    note_vital(
        AUDIT,
        is_good=seq is None,
        detail="" if seq is None else f"Event {seq} does not fit the one before it.",
    )
    return seq
