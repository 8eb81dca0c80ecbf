"""Write the audit log and check its chain."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from marketplace.core.clock import utc_now
from marketplace.models import AuditEvent

GENESIS = bytes(32)
# Writers take turns: each row's hash needs the one before it.
_LOCK_ID = 0x5352_4155_4449_54


def record(
    actor: str,
    action: str,
    subject: Any,
    *,
    account_id: UUID | None = None,
    payload: dict[str, Any] | None = None,
) -> AuditEvent:
    """Add an event in the transaction of the change it tells of.

    Args:
        actor: Who did it, as `Actor.label` says.
        action: What, as `noun.verb`.
        subject: The row that was changed.
        account_id: Whose it is, for the account's own view of the log.
        payload: What is worth knowing later; never a secret.
    """
    assert connection.in_atomic_block, "the log belongs into the transaction of the change"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])
    last = AuditEvent.objects.order_by("-seq").first()
    event = AuditEvent(
        at=utc_now(),
        actor=actor,
        account_id=account_id,
        action=action,
        object_type=subject._meta.label_lower,
        object_id=str(subject.pk),
        payload=payload or {},
        prev_hash=bytes(last.hash) if last else GENESIS,
    )
    event.hash = event_hash(event)
    event.save(force_insert=True)
    return event


def event_hash(event: AuditEvent) -> bytes:
    """SHA-256 over the row's content and the hash before it."""
    content = [
        event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        event.actor,
        str(event.account_id or ""),
        event.action,
        event.object_type,
        event.object_id,
        event.payload,
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(bytes(event.prev_hash) + text.encode()).digest()


def find_first_break() -> int | None:
    """The number of the first row that does not fit the chain; None if all do."""
    with transaction.atomic():
        previous = GENESIS
        for event in AuditEvent.objects.order_by("seq").iterator():
            if bytes(event.prev_hash) != previous or bytes(event.hash) != event_hash(event):
                return event.seq
            previous = bytes(event.hash)
    return None
