"""What is always true of refunds, disputes, tax and fees of top-ups."""

from __future__ import annotations

from billing.selectors.invariant import Invariant

# Of one transfer, by its key: what it moves on each kind of account.
_MOVES = """
    LEFT JOIN LATERAL (
        SELECT count(*) AS entries,
            coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'wallet'), 0) AS wallet,
            coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'tax_payable'), 0) AS tax,
            coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'refund_in_flight'), 0) AS flight,
            coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing'), 0) AS clearing
        FROM billing_transfer t JOIN billing_transferentry e ON e.transfer_id = t.id
        JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
        WHERE t.idempotency_key = {key}
    ) {name} ON true
"""


def _moves(name: str, key: str) -> str:
    return _MOVES.format(name=name, key=key)


PREPAID_INVARIANTS = (
    Invariant(
        "refunds-are-booked",
        "Each refund took its credit and tax once, and is in flight, at the card, or back.",
        f"""SELECT r.id FROM billing_topuprefund r
           {_moves("begun", "'refund:' || r.id")}
           {_moves("sent", "'refund_sent:' || r.id")}
           {_moves("failed", "'refund_failed:' || r.id")}
           WHERE begun.wallet <> -r.net_cents::bigint * 10000000
               OR begun.tax <> -r.tax_cents::bigint * 10000000
               OR begun.flight <> (r.net_cents::bigint + r.tax_cents) * 10000000
               OR (r.state = 'succeeded') <> (sent.entries > 0 AND failed.entries = 0)
               OR (r.state = 'failed') <> (failed.entries > 0)
               OR (failed.entries > 0
                   AND (failed.wallet, failed.tax) <> (-begun.wallet, -begun.tax))
               OR begun.flight + sent.flight + failed.flight <>
                   CASE WHEN r.state = 'in_flight' THEN begun.flight ELSE 0 END
           UNION ALL
           SELECT a.id FROM billing_ledgeraccount a
           WHERE a.kind = 'refund_in_flight' AND a.posted_nanos <> (
               SELECT coalesce(sum(net_cents::bigint + tax_cents), 0) * 10000000
               FROM billing_topuprefund WHERE state = 'in_flight')
           UNION ALL
           SELECT p.id FROM billing_topup p JOIN billing_topuprefund r ON r.topup_id = p.id
           WHERE r.state <> 'failed' GROUP BY p.id, p.amount_cents, p.tax_cents
           HAVING sum(r.net_cents) > p.amount_cents OR sum(r.tax_cents) > p.tax_cents""",  # noqa: S608 - of constants
    ),
    Invariant(
        "dispute-holds-match",
        "What is held for an account's disputes, lost, and off the balance is what they say.",
        """SELECT d.id FROM billing_dispute d
           LEFT JOIN LATERAL (
               SELECT coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'wallet'), 0) AS wallet,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'dispute_hold'), 0) AS held,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'dispute_loss'), 0) AS loss,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing'), 0)
                       AS clearing,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_fee'), 0) AS fee,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'tax_payable'), 0) AS tax,
                   count(DISTINCT t.id) AS transfers
               FROM billing_transfer t JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.reference = d.dispute_id AND t.kind IN (
                   'dispute', 'dispute_won', 'dispute_lost', 'fee')
           ) m ON true
           WHERE m.wallet <> -d.taken_nanos
               OR m.held <> greatest(0, d.taken_nanos
                   - (d.withdrawn_cents::bigint - d.tax_cents) * 10000000)
               OR m.loss <> -greatest(0,
                   (d.withdrawn_cents::bigint - d.tax_cents) * 10000000 - d.taken_nanos)
               OR m.tax <> -d.tax_cents::bigint * 10000000
               OR m.clearing <> (d.withdrawn_cents::bigint + d.fee_cents) * 10000000
               OR m.fee <> -d.fee_cents::bigint * 10000000
               OR m.transfers <> d.transfers
           UNION ALL
           SELECT a.id FROM billing_ledgeraccount a
           LEFT JOIN billing_dispute d ON d.account_id = a.holder_id
           WHERE a.kind = 'dispute_hold' GROUP BY a.id, a.posted_nanos
           HAVING a.posted_nanos <> coalesce(sum(
               greatest(0, d.taken_nanos
                   - (d.withdrawn_cents::bigint - d.tax_cents) * 10000000)), 0)
           UNION ALL
           SELECT d.id FROM billing_dispute d LEFT JOIN billing_topup p ON p.id = d.topup_id
           LEFT JOIN billing_invoice i ON i.id = d.invoice_id
           WHERE d.tax_cents > coalesce(p.tax_cents, i.tax_cents)""",
    ),
    Invariant(
        "tax-is-booked",
        "The tax that we owe is what payments brought, less what refunds and disputes took back.",
        """SELECT 'tax ' || posted.nanos FROM (
               SELECT coalesce(sum(posted_nanos), 0) AS nanos FROM billing_ledgeraccount
               WHERE kind = 'tax_payable'
           ) posted, (
               SELECT coalesce(sum(tax_cents), 0)::bigint * 10000000 AS nanos FROM billing_topup
               WHERE state = 'credited'
           ) paid, (
               SELECT coalesce(sum(tax_cents), 0)::bigint * 10000000 AS nanos
               FROM billing_topuprefund WHERE state <> 'failed'
           ) returned, (
               SELECT coalesce(sum(tax_cents), 0)::bigint * 10000000 AS nanos
               FROM billing_dispute
           ) disputed, (
               SELECT coalesce(sum(tax_cents), 0)::bigint * 10000000 AS nanos
               FROM billing_invoice WHERE booked_at IS NOT NULL
           ) billed, (
               SELECT coalesce(sum(e.amount_nanos), 0) AS nanos FROM billing_transferentry e
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               JOIN billing_transfer t ON t.id = e.transfer_id
               WHERE a.kind = 'tax_payable' AND t.kind = 'adjustment'
           ) adjusted
           WHERE posted.nanos <> paid.nanos - returned.nanos - disputed.nanos + billed.nanos
               + adjusted.nanos""",
    ),
    Invariant(
        "stripe-objects-take-effect-once",
        "A payment, a charge's fee and a refund at Stripe are booked for one row each.",
        """SELECT p.id FROM billing_topup p
           LEFT JOIN billing_transfer t ON t.idempotency_key = 'fee:' || p.charge_id
           LEFT JOIN billing_transferentry e ON e.transfer_id = t.id AND e.amount_nanos > 0
           WHERE p.fee_cents IS NOT NULL
               AND coalesce(e.amount_nanos, 0) <> p.fee_cents::bigint * 10000000
           UNION ALL
           SELECT t.id FROM billing_transfer t
           LEFT JOIN billing_topup p ON p.id::text = t.reference AND p.state = 'credited'
           WHERE t.idempotency_key LIKE 'topup:pi!_%' ESCAPE '!' AND t.reference <> ''
               AND t.idempotency_key IS DISTINCT FROM 'topup:' || p.payment_intent_id
           UNION ALL
           SELECT min(t.id::text)::uuid FROM billing_transfer t
           WHERE t.kind IN ('top_up', 'refund', 'refund_sent', 'refund_failed')
               AND t.reference <> ''
           GROUP BY t.kind, t.reference HAVING count(*) > 1""",
    ),
)
