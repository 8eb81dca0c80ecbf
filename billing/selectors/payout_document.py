"""The document from which a creator recomputes a payout: lines of JSON, made one by one.

What it tells is past and does not change, so that it is the same whenever it is asked for.
The format is the SDK's, in `strongroom.payouts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from billing.errors import PayoutTooLargeError
from billing.models import LedgerAccount, PayoutItem, ReceiptBatch, ReceiptLeaf
from billing.selectors.earnings import BOOKED_WITHIN, EARNED_SQL
from billing.selectors.ledger import find_ledger_account
from billing.selectors.receipt import describe_published, fetch_rows
from marketplace.core import ids
from marketplace.core.clock import to_wire
from marketplace.core.receipt import EVENT_SQL, ReceiptPendingError, describe_charge
from strongroom import payouts, receipts

DOCUMENT_TYPE = "application/x-ndjson"
_ROWS_PER_FETCH = 1_000


@dataclass(frozen=True, slots=True)
class _Release:
    """A released day and how many predictions are in it."""

    values: dict[str, Any]
    predictions: int


def stream_document(item: PayoutItem) -> Iterator[str]:
    """The lines of a payout's document; what cannot be told is refused before the first.

    Raises:
        ReceiptPendingError: A prediction in it has no receipt yet.
        PayoutTooLargeError: More than `strongroom.payouts.CHARGES_MAX` predictions.
    """
    payable = find_ledger_account(LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=item.creator_id)
    assert payable is not None, "something was paid from it"
    [ends] = fetch_rows(_ENDS_SQL, {"account": payable.pk, "key": f"payout:{item.pk}"})
    values = {"account": payable.pk, **ends}
    movements = fetch_rows(_MOVEMENTS_SQL, values)
    releases = {
        row["transfer_id"]: _count_predictions(item, date.fromisoformat(row["reference"]))
        for row in movements
        if row["kind"] == "release"
    }
    if sum(one.predictions for one in releases.values()) > payouts.CHARGES_MAX:
        raise PayoutTooLargeError
    [opening] = fetch_rows(_OPENING_SQL, values)
    return _write(item, ends["previous"], opening["nanos"], movements, releases)


def _write(
    item: PayoutItem,
    previous: str | None,
    opening_nanos: int,
    movements: list[dict[str, Any]],
    releases: dict[Any, _Release],
) -> Iterator[str]:
    lines = 0
    for line in _list_lines(item, previous, opening_nanos, movements, releases):
        lines += 1
        yield _encode(line)
    payable_nanos = opening_nanos + sum(row["amount_nanos"] for row in movements)
    closing_nanos = payable_nanos - item.amount_nanos
    yield _encode({"type": "end", "lines": lines + 1, "closing_nanos": closing_nanos})


def _list_lines(
    item: PayoutItem,
    previous: str | None,
    opening_nanos: int,
    movements: list[dict[str, Any]],
    releases: dict[Any, _Release],
) -> Iterator[dict[str, Any]]:
    yield {
        "type": "payout",
        "format": payouts.FORMAT,
        "platform": settings.WEB_URL,
        "payout": str(item.pk),
        "creator": str(item.creator_id),
        "created_at": to_wire(item.created_at),
        "amount_cents": item.amount_cents,
        "previous": previous,
        "opening_nanos": opening_nanos,
    }
    for row in movements:
        release = releases.get(row["transfer_id"])
        yield _describe_movement(row, release)
        if release is not None:
            yield from _list_charges(release)
            yield from _list_corrections(release)


def _describe_movement(row: dict[str, Any], release: _Release | None) -> dict[str, Any]:
    described = {
        "type": "movement",
        "kind": row["kind"],
        "transfer": str(row["transfer_id"]),
        "amount_nanos": row["amount_nanos"],
    }
    if release is not None:
        return {**described, "day": row["reference"], "predictions": release.predictions}
    return {**described, "reference": row["reference"]}


def _count_predictions(item: PayoutItem, day: date) -> _Release:
    begin = datetime.combine(day, time(), UTC)
    end = begin + timedelta(days=1)
    values = {
        "creator": item.creator_id,
        "begin": begin,
        "end": end,
        "first": ids.lowest_id(begin - BOOKED_WITHIN),
        "last": ids.lowest_id(end + BOOKED_WITHIN),
    }
    [counts] = fetch_rows(_COUNT_SQL, values)
    if counts["sealed"] < counts["predictions"]:
        raise ReceiptPendingError
    return _Release(values, counts["predictions"])


def _list_charges(release: _Release) -> Iterator[dict[str, Any]]:
    """A line for each batch, and behind it those of its charges that belong to the release."""
    seq, levels = 0, [[b""]]
    with connection.chunked_cursor() as cursor:
        cursor.execute(_CHARGES_SQL, release.values)
        names: list[str] = []
        while rows := cursor.fetchmany(_ROWS_PER_FETCH):
            names = names or [column.name for column in cursor.description]
            for values in rows:
                row = dict(zip(names, values, strict=True))
                if row["batch_id"] != seq:
                    seq = row["batch_id"]
                    levels = _load_levels(seq)
                    yield _describe_batch(seq)
                path = receipts.pick_path(levels, row["index"])
                yield {
                    "type": "charge",
                    "charge": describe_charge(row),
                    "index": row["index"],
                    "path": [one.hex() for one in path],
                }


def _load_levels(seq: int) -> list[list[bytes]]:
    leaves = ReceiptLeaf.objects.filter(batch_id=seq).order_by("index")
    return receipts.list_levels([bytes(one) for one in leaves.values_list("hash", flat=True)])


def _describe_batch(seq: int) -> dict[str, Any]:
    published = describe_published(ReceiptBatch.objects.get(seq=seq))
    signed = {name: published[name] for name in receipts.BATCH_MEMBERS}
    return {
        "type": "batch",
        "batch": signed,
        "signature": published["signature"],
        "kid": published["kid"],
    }


def _list_corrections(release: _Release) -> Iterator[dict[str, Any]]:
    for row in fetch_rows(_CORRECTIONS_SQL, release.values):
        yield {"type": "correction", **row, "transfer": str(row["transfer"])}


def _encode(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n"


# The entry of this payout, and that of the payout before it.
_ENDS_SQL = """
SELECT e.id AS until, p.id AS after, substr(p.idempotency_key, 8) AS previous
FROM billing_transferentry e
JOIN billing_transfer t ON t.id = e.transfer_id AND t.idempotency_key = %(key)s
LEFT JOIN LATERAL (
    SELECT b.id, s.idempotency_key FROM billing_transferentry b
    JOIN billing_transfer s ON s.id = b.transfer_id
    WHERE b.ledger_account_id = %(account)s AND b.id < e.id AND s.kind = 'payout'
    ORDER BY b.id DESC LIMIT 1
) p ON true
WHERE e.ledger_account_id = %(account)s
"""
_OPENING_SQL = """
SELECT coalesce(sum(amount_nanos), 0)::bigint AS nanos FROM billing_transferentry
WHERE ledger_account_id = %(account)s AND id <= coalesce(%(after)s, 0)
"""
_MOVEMENTS_SQL = """
SELECT t.id AS transfer_id, t.kind, t.reference, e.amount_nanos
FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
WHERE e.ledger_account_id = %(account)s AND e.id > coalesce(%(after)s, 0) AND e.id < %(until)s
ORDER BY e.id
"""
_DAY_SQL = f"""
FROM ({EARNED_SQL}) p
JOIN billing_transfer t ON t.id = p.transfer_id
LEFT JOIN billing_receiptleaf l ON l.prediction_id = p.prediction_id
WHERE p.earner_id = %(creator)s AND p.prediction_id >= %(first)s AND p.prediction_id < %(last)s
    AND t.created_at >= %(begin)s AND t.created_at < %(end)s
    -- A transfer that brought the creator nothing is in no release.
    AND EXISTS (
        SELECT 1 FROM billing_transferentry e JOIN billing_ledgeraccount a
            ON a.id = e.ledger_account_id
        WHERE e.transfer_id = t.id AND a.kind = 'creator_reserve'
            AND a.holder_id = p.earner_id)
"""  # noqa: S608 - of a constant
_COUNT_SQL = f"SELECT count(*) AS predictions, count(l.prediction_id) AS sealed {_DAY_SQL}"
_CHARGES_SQL = f"""
SELECT e.*, d.batch_id, d.index
FROM (SELECT p.prediction_id, l.batch_id, l.index {_DAY_SQL}) d
JOIN ({EVENT_SQL}) e ON e.prediction_id = d.prediction_id
ORDER BY d.batch_id, d.index
"""  # noqa: S608 - of constants
_CORRECTIONS_SQL = """
SELECT t.kind, t.id AS transfer, t.reference, e.amount_nanos
FROM billing_ledgeraccount a
JOIN billing_transferentry e ON e.ledger_account_id = a.id
JOIN billing_transfer t ON t.id = e.transfer_id
WHERE a.holder_id = %(creator)s AND a.kind = 'creator_reserve'
    AND t.created_at >= %(begin)s AND t.created_at < %(end)s
    AND t.kind NOT IN ('usage', 'release')
ORDER BY e.id
"""
