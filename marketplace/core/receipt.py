"""From the row of a usage event to the receipt of its prediction.

Shared by the web and the gateway: both read the same row and answer with the same document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from marketplace.core.clock import to_wire
from marketplace.core.errors import ConflictError
from marketplace.core.ids import to_public
from strongroom import receipts

# The charge, and the batch in which it was sealed; that part is null until then.
EVENT_SQL = """
SELECT u.prediction_id, u.account_id, u.creator_id, u.version_id, u.price_id, u.mode, u.units,
    u.gross_nanos, u.creator_nanos, u.transfer_id, u.occurred_at, u.xid::text AS xid,
    p.nanos_per_prediction, p.creator_share_bps, u.metered::text AS metered, u.position,
    CASE WHEN p.is_plain THEN NULL ELSE jsonb_build_object('nanos_per_million', p.rates,
        'minimum_nanos', p.minimum_nanos, 'free_units', p.free_units, 'tiers', p.tiers)::text
    END AS terms, (
        SELECT jsonb_agg(jsonb_build_object('account', r.beneficiary_id, 'parent', r.parent_id,
            'bps', r.bps, 'nanos', s.amount_nanos) ORDER BY r.id)::text
        FROM billing_royaltyshare s JOIN billing_royalty r ON r.id = s.royalty_id
        WHERE s.prediction_id = u.prediction_id
    ) AS royalties
FROM billing_usageevent u JOIN billing_price p ON p.id = u.price_id
"""
RECEIPT_SQL = f"""
SELECT e.*, a.slug AS owner, m.name AS model, v.number, l.index, b.seq, b.size, b.root,
    b.previous, b.sealed_at, b.signature, b.key_id AS kid, (
        SELECT array_agg(encode(o.hash, 'hex') ORDER BY o.index)
        FROM billing_receiptleaf o WHERE o.batch_id = b.seq
    ) AS leaves
FROM ({EVENT_SQL} WHERE u.prediction_id = %(id)s) e
JOIN marketplace_modelversion v ON v.id = e.version_id
JOIN marketplace_aimodel m ON m.id = v.model_id
JOIN marketplace_account a ON a.id = m.account_id
LEFT JOIN billing_receiptleaf l ON l.prediction_id = e.prediction_id
LEFT JOIN billing_receiptbatch b ON b.seq = l.batch_id
"""  # noqa: S608 - of constants
# Batches are sealed every few seconds.
RETRY_AFTER_S = 10


class ReceiptPendingError(ConflictError):
    """The prediction is booked, and its batch not sealed yet."""

    code = "receipt_pending"
    retryable = True
    title = "The receipt is made within a minute of the prediction."

    def __init__(self) -> None:
        super().__init__(retry_after_s=RETRY_AFTER_S)


def describe_charge(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is proved of a prediction, from a row of `EVENT_SQL`."""
    prediction = to_public(row["prediction_id"])
    metered = {} if row["metered"] is None else json.loads(row["metered"])
    charge = {
        "prediction": prediction,
        "consumer": receipts.hide_consumer(str(row["account_id"]), prediction),
        "creator": str(row["creator_id"]),
        "version": str(row["version_id"]),
        "price": str(row["price_id"]),
        "mode": row["mode"],
        "units": {"prediction": row["units"], **metered},
        "rates_nanos": {"prediction": row["nanos_per_prediction"]},
        "creator_share_bps": row["creator_share_bps"],
        "gross_nanos": row["gross_nanos"],
        "creator_nanos": row["creator_nanos"],
        "transfer": str(row["transfer_id"]) if row["transfer_id"] else None,
        "occurred_at": to_wire(row["occurred_at"]),
    }
    if row["terms"] is not None:
        charge["terms"] = json.loads(row["terms"]) | {"position": row["position"]}
    if row["royalties"] is not None:
        charge["royalties"] = json.loads(row["royalties"])
    return charge


def describe_batch(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is signed of a batch."""
    members = {name: row[name] for name in receipts.BATCH_MEMBERS}
    return {**members, "sealed_at": to_wire(row["sealed_at"])}


def assemble(row: Mapping[str, Any], *, platform: str) -> dict[str, Any]:
    """The receipt, from a row of `RECEIPT_SQL`.

    Args:
        row: What the query found.
        platform: Where the keys and all batches are published.

    Raises:
        ReceiptPendingError: Its batch is not sealed yet.
    """
    if row["seq"] is None:
        raise ReceiptPendingError
    leaves = [bytes.fromhex(one) for one in row["leaves"]]
    return assemble_at(row, receipts.list_path(leaves, row["index"]), platform=platform)


def assemble_at(row: Mapping[str, Any], path: Sequence[bytes], *, platform: str) -> dict[str, Any]:
    """The receipt of a sealed charge whose way to the root is known."""
    return {
        "format": receipts.FORMAT,
        "platform": platform,
        # For people; it is not part of what is proved.
        "model": f"{row['owner']}/{row['model']}:{row['number']}",
        "charge": describe_charge(row),
        "index": row["index"],
        "path": [one.hex() for one in path],
        "batch": describe_batch(row),
        "signature": row["signature"],
        "kid": row["kid"],
    }
