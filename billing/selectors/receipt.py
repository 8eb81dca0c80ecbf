"""Read receipts, and what is published to check them by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Exists, Q, QuerySet

from billing.models import ReceiptBatch, ReceiptKey, ReceiptLeaf, RoyaltyShare, UsageEvent
from marketplace.core.clock import to_wire
from marketplace.core.errors import NotFoundError
from marketplace.core.ids import to_public
from marketplace.core.receipt import (
    EVENT_SQL,
    RECEIPT_SQL,
    assemble,
    assemble_at,
    describe_batch,
    describe_charge,
)
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts
from strongroom import receipts
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64

BATCHES_PER_PAGE = 1_000
# On the page of receipts; all others are found in the log of predictions.
LATEST_MAX = 20
_EVENTS_PER_FETCH = 2_000
# Leaves of batches that are kept while receipts are written: neighbours lie in the same.
_TREES_KEPT = 64


def get_receipt(actor: Actor, prediction_id: UUID) -> dict[str, Any]:
    """The receipt of a prediction, for who paid for it and for who is owed.

    Raises:
        NotFoundError: There is no such prediction, or it is others'.
        ReceiptPendingError: Its batch is not sealed yet.
    """
    events = UsageEvent.objects.filter(prediction_id=prediction_id)
    if not actor.is_admin:
        own = list_accounts(actor)
        is_shared = RoyaltyShare.objects.filter(
            prediction_id=prediction_id, royalty__beneficiary__in=own
        )
        events = events.filter(Q(account__in=own) | Q(creator__in=own) | Exists(is_shared))
    if not events.exists():
        raise NotFoundError("There is no such prediction, or you may not see it.")
    [row] = fetch_rows(RECEIPT_SQL, {"id": prediction_id})
    return assemble(row, platform=settings.WEB_URL)


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """A charge of an account, and the batch in which it was sealed; None until then."""

    public_id: str
    event: UsageEvent
    batch: int | None


def list_latest(account: Account) -> list[ReceiptLine]:
    """The latest charges of an account, newest first."""
    events = UsageEvent.objects.filter(account=account).select_related("version__model__account")
    rows = list(events.order_by("-prediction_id")[:LATEST_MAX])
    leaves = ReceiptLeaf.objects.filter(pk__in=[row.prediction_id for row in rows])
    batches = dict(leaves.values_list("prediction_id", "batch_id"))
    return [
        ReceiptLine(to_public(row.prediction_id), row, batches.get(row.prediction_id))
        for row in rows
    ]


def stream_receipts(prediction_ids: Iterable[UUID]) -> Iterator[dict[str, Any]]:
    """The receipts of many predictions, in their order; those not sealed yet are left out.

    Args:
        prediction_ids: In an order in which those of a batch lie together, as that of the ids.
    """

    @lru_cache(_TREES_KEPT)
    def list_paths(seq: int) -> list[list[bytes]]:
        leaves = ReceiptLeaf.objects.filter(batch_id=seq).order_by("index")
        return receipts.list_paths([bytes(one) for one in leaves.values_list("hash", flat=True)])

    ids = iter(prediction_ids)
    while some := list(islice(ids, _EVENTS_PER_FETCH)):
        for row in fetch_rows(_RECEIPTS_SQL, {"ids": some}):
            path = list_paths(row["seq"])[row["index"]]
            yield assemble_at(row, path, platform=settings.WEB_URL)


def list_batches(*, after: int) -> QuerySet[ReceiptBatch]:
    """Published batches in their order, from the one after this number."""
    return ReceiptBatch.objects.filter(seq__gt=after).order_by("seq")[:BATCHES_PER_PAGE]


def describe_published(batch: ReceiptBatch) -> dict[str, Any]:
    """A batch as everybody may see it: what was signed, the signature, and whose."""
    signed = describe_batch({name: getattr(batch, name) for name in _SIGNED})
    return {**signed, "signature": batch.signature, "kid": batch.key_id}


def describe_keys() -> dict[str, Any]:
    """The receipt key in use, and how it followed from the first one."""
    keys = list(ReceiptKey.objects.order_by("created_at"))
    if not keys:
        return {"kid": None, "public_key": None, "successions": []}
    return {
        "kid": keys[-1].kid,
        "public_key": keys[-1].public_key,
        "successions": [
            {
                "kid": one.kid,
                "public_key": one.public_key,
                "created_at": to_wire(one.created_at),
                "signature": one.signature,
            }
            for one in keys[1:]
        ],
    }


def find_broken_batches() -> Iterator[tuple[int, str]]:
    """Compute every batch anew from the charges themselves; the number and fault of each wrong one.

    A charge, a price, a leaf or a batch that was changed in the database behind our back does
    not come out as it was signed.
    """
    before = receipts.GENESIS
    keys = {one.kid: decode_base64(one.public_key) for one in ReceiptKey.objects.all()}
    for batch in ReceiptBatch.objects.order_by("seq").iterator(chunk_size=100):
        fault = _find_fault(batch, before, keys[batch.key_id])
        if fault:
            yield batch.seq, fault
        before = batch.hash


def _find_fault(batch: ReceiptBatch, before: str, key: bytes) -> str:
    rows = fetch_rows(_BATCH_SQL, {"seq": batch.seq})
    leaves = [receipts.hash_leaf(describe_charge(row)) for row in rows]
    wrong = [
        str(row["prediction_id"])
        for row, leaf in zip(rows, leaves, strict=True)
        if bytes(row["hash"]) != leaf
    ]
    if wrong:
        return f"{len(wrong)} charges are not as they were sealed, the first is {wrong[0]}"
    if len(leaves) != batch.size or receipts.hash_root(leaves).hex() != batch.root:
        return "its charges are not those that were sealed"
    published = describe_published(batch)
    if batch.previous != before or batch.hash != receipts.hash_batch(published):
        return "it does not follow the batch before it"
    payload = receipts.batch_payload(published)
    if not signature.is_signed(receipts.BATCH_TYPE, payload, batch.signature, [key]):
        return "its signature is wrong"
    return ""


def fetch_rows(sql: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a query, by the names of its columns."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


_BATCH_SQL = f"""
SELECT e.*, l.hash FROM ({EVENT_SQL}) e
JOIN billing_receiptleaf l ON l.prediction_id = e.prediction_id
WHERE l.batch_id = %(seq)s ORDER BY l.index
"""  # noqa: S608 - of constants
_SIGNED = ("seq", "size", "root", "previous", "sealed_at")
# As that of one receipt, without its leaves: those of a batch serve all receipts in it.
_RECEIPTS_SQL = f"""
SELECT e.*, a.slug AS owner, m.name AS model, v.number, l.index, b.seq, b.size, b.root,
    b.previous, b.sealed_at, b.signature, b.key_id AS kid
FROM ({EVENT_SQL} WHERE u.prediction_id = ANY (%(ids)s)) e
JOIN marketplace_modelversion v ON v.id = e.version_id
JOIN marketplace_aimodel m ON m.id = v.model_id
JOIN marketplace_account a ON a.id = m.account_id
JOIN billing_receiptleaf l ON l.prediction_id = e.prediction_id
JOIN billing_receiptbatch b ON b.seq = l.batch_id
ORDER BY e.prediction_id
"""  # noqa: S608 - of constants
