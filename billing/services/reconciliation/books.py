"""Our side of the money at Stripe: what the ledger says moved on Stripe's balance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection

from billing.models import TopupRefund

# Ids of what moves money on the balance: payments, charges, refunds, disputes, Connect
# transfers and their reversals, invoices, and movements themselves.
_STRIPE_ID = re.compile(r"(?<![A-Za-z0-9])(?:pi|ch|py|re|pyr|dp|du|trr|tr|in|txn)_[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Booking:
    """A transfer that says that something happened at Stripe.

    `gross_nanos` and `fee_nanos` are as Stripe counts them: what came (or went, below zero),
    and what Stripe kept of it. `stripe_id` is empty where the transfer names nothing there.
    """

    transfer_id: UUID
    kind: str
    reference: str
    stripe_id: str
    gross_nanos: int
    fee_nanos: int
    created_at: datetime


_SQL = """
SELECT t.id, t.kind, t.idempotency_key, t.reference, t.created_at,
    coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing'), 0)::bigint,
    coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_fee'), 0)::bigint
FROM billing_transfer t
JOIN billing_transferentry e ON e.transfer_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
WHERE a.kind IN ('stripe_clearing', 'stripe_fee') AND (t.created_at >= %s
    -- Disputes go back and forth for months; they are looked at in whole.
    OR t.kind IN ('dispute', 'dispute_lost', 'dispute_won')
    OR t.idempotency_key LIKE 'dispute_fee:%%')
GROUP BY t.id ORDER BY t.created_at, t.id
"""


def list_bookings(since: datetime) -> list[Booking]:
    """Every transfer over Stripe's balance from a moment on, oldest first; disputes of any age."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL, [since])
        return [
            Booking(
                transfer_id=transfer_id,
                kind=kind,
                reference=reference,
                stripe_id=find_stripe_id(reference) or find_stripe_id(key),
                gross_nanos=-clearing_nanos - fee_nanos,
                fee_nanos=-fee_nanos,
                created_at=created_at,
            )
            for transfer_id, kind, key, reference, created_at, clearing_nanos, fee_nanos in (
                cursor.fetchall()
            )
        ]


def find_stripe_id(text: str) -> str:
    """The first id of an object at Stripe in a key or a reference; empty if there is none."""
    found = _STRIPE_ID.search(text)
    return found.group() if found else ""


def find_refund_id(reference: str) -> str:
    """Stripe's id of a refund of ours; empty if there is none."""
    try:
        row = TopupRefund.objects.filter(pk=UUID(reference)).first()
    except ValueError:
        return ""
    return (row.stripe_refund_id or "") if row else ""
