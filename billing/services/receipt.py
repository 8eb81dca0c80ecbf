"""Seal what was booked in batches: each a Merkle tree, its root signed and chained.

Only events of transactions that are over are read, in the order of those transactions, so
that none is passed over however long another one took to commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from billing.errors import ReceiptKeyError
from billing.models import ReceiptBatch, ReceiptKey, ReceiptLeaf
from billing.selectors.receipt import fetch_rows
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.receipt import EVENT_SQL, describe_batch, describe_charge
from strongroom import receipts
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError

# A receipt names ten others of its batch. The gateway hashes all of it for one, in a millisecond.
BATCH_SIZE = 1_024
# One run ends in time; the next one goes on.
BATCHES_PER_RUN_MAX = 100
_NOWHERE = UUID(int=0)
# Any number that nothing else in this database locks.
_LOCK = 0x5265_6365_6970_7473

# What is visible and has a number that is not given out yet is of a database that was restored
# from a dump, where numbers begin anew: it is over.
_EVENTS = f"""
{EVENT_SQL}
WHERE (u.xid, u.prediction_id) > (%(transaction)s::text::xid8, %(id)s)
    AND (u.xid < pg_snapshot_xmin(pg_current_snapshot())
        OR u.xid >= pg_snapshot_xmax(pg_current_snapshot()))
    AND NOT EXISTS (SELECT 1 FROM billing_receiptleaf l WHERE l.prediction_id = u.prediction_id)
ORDER BY u.xid, u.prediction_id LIMIT %(limit)s
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class _Signer:
    """The key that signs now, raw, and its row."""

    key: ReceiptKey
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Up to which event all are sealed."""

    transaction: int
    event_id: UUID


def seal_receipts() -> int:
    """Seal the charges that were booked since; returns how many.

    Raises:
        ReceiptKeyError: There is no key to sign with, or nobody named it.
    """
    count = 0
    for _ in range(BATCHES_PER_RUN_MAX):
        sealed = _seal_batch()
        count += sealed
        if sealed < BATCH_SIZE:
            break
    return count


def _seal_batch() -> int:
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Whoever comes second has nothing to do.
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
            if not cursor.fetchone()[0]:
                return 0
        last = ReceiptBatch.objects.order_by("-seq").first()
        rows = _list_unsealed(last)
        if not rows:
            return 0
        signer = _load_signer()
        leaves = [receipts.hash_leaf(describe_charge(row)) for row in rows]
        batch = _sign_batch(last, leaves, signer, mark=rows[-1])
        batch.save(force_insert=True)
        ReceiptLeaf.objects.bulk_create(
            ReceiptLeaf(prediction_id=row["prediction_id"], batch=batch, index=index, hash=leaf)
            for index, (row, leaf) in enumerate(zip(rows, leaves, strict=True))
        )
    return len(rows)


def _list_unsealed(last: ReceiptBatch | None) -> list[dict[str, Any]]:
    mark = _find_mark(last)
    values = {"transaction": mark.transaction, "id": mark.event_id, "limit": BATCH_SIZE}
    return fetch_rows(_EVENTS, values)


def _find_mark(last: ReceiptBatch | None) -> _Mark:
    if last is None:
        return _Mark(0, _NOWHERE)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        [next_transaction] = cursor.fetchone()
    if last.mark_transaction >= next_transaction:
        # Restored from a dump: read all once more, and pass over what has a leaf.
        return _Mark(0, _NOWHERE)
    return _Mark(last.mark_transaction, last.mark_id)


def _sign_batch(
    last: ReceiptBatch | None, leaves: list[bytes], signer: _Signer, *, mark: dict[str, Any]
) -> ReceiptBatch:
    values: dict[str, Any] = {
        "seq": last.seq + 1 if last else 1,
        "size": len(leaves),
        "root": receipts.hash_root(leaves).hex(),
        "previous": last.hash if last else receipts.GENESIS,
        "sealed_at": utc_now(),
    }
    described = describe_batch(values)
    payload = receipts.batch_payload(described)
    signed = signature.sign(signer.private_key, receipts.BATCH_TYPE, payload)
    return ReceiptBatch(
        **values,
        hash=receipts.hash_batch(described),
        key=signer.key,
        signature=encode_base64(signed),
        mark_transaction=int(mark["xid"]),
        mark_id=mark["prediction_id"],
    )


# --- Keys -------------------------------------------------------------------------


def _load_signer() -> _Signer:
    private_key = _read_key(settings.RECEIPT_KEY, "STRONGROOM_RECEIPT_KEY")
    public_key = signature.derive_public_key(private_key)
    newest = ReceiptKey.objects.order_by("-created_at").first()
    known = ReceiptKey.objects.filter(public_key=encode_base64(public_key)).first()
    if known is not None:
        if newest is not None and known.pk != newest.pk:
            raise ReceiptKeyError("STRONGROOM_RECEIPT_KEY was followed by another key already.")
        return _Signer(known, private_key)
    return _Signer(_publish_key(public_key, newest), private_key)


def _publish_key(public_key: bytes, before: ReceiptKey | None) -> ReceiptKey:
    """Make a new key known; the one before it signs that it follows."""
    now = utc_now()
    kid = receipts.derive_kid(public_key)
    signed = b"" if before is None else _sign_succession(before, kid, public_key, now)
    return ReceiptKey.objects.create(
        kid=kid,
        public_key=encode_base64(public_key),
        signature=encode_base64(signed) if signed else "",
        created_at=now,
    )


def _sign_succession(before: ReceiptKey, kid: str, public_key: bytes, now: datetime) -> bytes:
    if not settings.RECEIPT_KEY_BEFORE:
        detail = "A new receipt key has to be named by the one before it."
        raise ReceiptKeyError(f"{detail} Set STRONGROOM_RECEIPT_KEY_BEFORE to that one.")
    private_key = _read_key(settings.RECEIPT_KEY_BEFORE, "STRONGROOM_RECEIPT_KEY_BEFORE")
    if encode_base64(signature.derive_public_key(private_key)) != before.public_key:
        raise ReceiptKeyError("STRONGROOM_RECEIPT_KEY_BEFORE is not the newest published key.")
    payload = signature.platform_key_payload(
        kid=kid, public_key=encode_base64(public_key), created_at=to_wire(now)
    )
    return signature.sign(private_key, receipts.KEY_TYPE, payload)


def _read_key(text: str, name: str) -> bytes:
    try:
        return decode_base64(text, size_bytes=signature.PRIVATE_KEY_BYTES)
    except CanonicalError:
        detail = f"{name} is no Ed25519 private key: 32 bytes in base64."
        raise ReceiptKeyError(detail) from None
