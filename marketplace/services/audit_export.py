"""The audit log as a file that proves itself: each row can be checked by who has only the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.models import AuditEvent
from marketplace.selectors.access import Actor
from marketplace.selectors.audit import find_head
from marketplace.services import audit
from marketplace.services.admin import require_admin

COLUMNS = (
    "seq",
    "at",
    "actor",
    "account_id",
    "action",
    "object_type",
    "object_id",
    "payload",
    "prev_hash",
    "hash",
)


def export_events(
    *, actor: Actor, events: QuerySet[AuditEvent], asked: dict[str, str]
) -> Iterator[str]:
    """The events as CSV, oldest first, and behind them the last event of the whole log.

    The export itself becomes that last event: who has the file can show later that the log,
    as it stood then, is still the beginning of what it is now.

    Args:
        actor: A platform admin.
        events: What to write.
        asked: What was searched for, for the log.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: More rows than one file holds.
    """
    require_admin(actor)
    count = events.count()
    if count > limits.AUDIT_EXPORT_ROWS_MAX:
        raise InvalidInputError(
            f"These are {count} events; a file holds {limits.AUDIT_EXPORT_ROWS_MAX}. "
            "Choose a shorter time."
        )
    with transaction.atomic():
        assert actor.user is not None, "an admin is a person"
        audit.record(
            actor.label, "audit.export", actor.user, payload={"rows": count, "asked": asked}
        )
        head = find_head()
    assert head is not None, "it was written just now"
    ids = list(events.order_by("seq").values_list("seq", flat=True))
    return _write(ids, head)


def find_export_break(lines: Iterable[str]) -> int | None:
    """The number of the first row of a file that does not fit its hash or its neighbour.

    Neighbours are rows whose numbers follow each other; None where all is as it was written.

    Raises:
        InvalidInputError: This is no such file.
    """
    reader = csv.DictReader(lines)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InvalidInputError("This is no export of the audit log.")
    before: AuditEvent | None = None
    for row in reader:
        try:
            event = _read(row)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInputError(f"Row {row.get('seq')} cannot be read.") from error
        if bytes(event.hash) != audit.event_hash(event):
            return event.seq
        follows = before is not None and event.seq == before.seq + 1
        if before is not None and follows and bytes(event.prev_hash) != bytes(before.hash):
            return event.seq
        before = event
    return None


def _write(ids: list[int], head: AuditEvent) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for start in range(0, len(ids), 1_000):
        for event in AuditEvent.objects.filter(seq__in=ids[start : start + 1_000]).order_by("seq"):
            writer.writerow(_row(event))
        yield _take(buffer)
    if not ids or ids[-1] != head.seq:
        writer.writerow(_row(head))
    yield _take(buffer)


def _take(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _row(event: AuditEvent) -> list[Any]:
    return [
        event.seq,
        event.at.isoformat(timespec="microseconds"),
        event.actor,
        event.account_id or "",
        event.action,
        event.object_type,
        event.object_id,
        json.dumps(event.payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        bytes(event.prev_hash).hex(),
        bytes(event.hash).hex(),
    ]


def _read(row: dict[str, str]) -> AuditEvent:
    return AuditEvent(
        seq=int(row["seq"]),
        at=datetime.fromisoformat(row["at"]),
        actor=row["actor"],
        account_id=UUID(row["account_id"]) if row["account_id"] else None,
        action=row["action"],
        object_type=row["object_type"],
        object_id=row["object_id"],
        payload=json.loads(row["payload"]),
        prev_hash=bytes.fromhex(row["prev_hash"]),
        hash=bytes.fromhex(row["hash"]),
    )
