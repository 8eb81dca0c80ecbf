"""Read the ledger, and weigh it: each invariant is a query that finds what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from billing.models import LedgerAccount, TransferEntry
from billing.selectors.invariant import Invariant
from billing.selectors.payout_invariants import PAYOUT_INVARIANTS
from billing.selectors.postpaid_invariants import POSTPAID_INVARIANTS
from billing.selectors.prepaid_invariants import PREPAID_INVARIANTS
from billing.selectors.warm_hour import WARM_HOUR_INVARIANT
from strongroom.receipts import GENESIS

# How many offending rows a check shows; the count is always exact.
SAMPLE_SIZE = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: how many rows break the invariant, and the first of them."""

    invariant: Invariant
    count: int
    sample: list[str]


INVARIANTS = (
    Invariant(
        "transfers-sum-to-zero",
        "The entries of every transfer sum to zero, and there are at least two.",
        """SELECT t.id FROM billing_transfer t
           LEFT JOIN billing_transferentry e ON e.transfer_id = t.id
           GROUP BY t.id HAVING coalesce(sum(e.amount_nanos), 1) <> 0 OR count(e.id) < 2""",
    ),
    Invariant(
        "accounts-sum-to-zero",
        "All ledger accounts together sum to zero.",
        """SELECT 'sum ' || sum(posted_nanos) FROM billing_ledgeraccount
           HAVING sum(posted_nanos) <> 0""",
    ),
    Invariant(
        "posted-equals-entries",
        "Each account's balance is the sum of its entries.",
        """SELECT a.id FROM billing_ledgeraccount a
           LEFT JOIN billing_transferentry e ON e.ledger_account_id = a.id
           GROUP BY a.id, a.posted_nanos
           HAVING a.posted_nanos <> coalesce(sum(e.amount_nanos), 0)""",
    ),
    Invariant(
        "held-equals-holds",
        "What an account has reserved is the sum of its open holds.",
        """SELECT a.id FROM billing_ledgeraccount a
           LEFT JOIN billing_hold h ON h.ledger_account_id = a.id AND h.state = 'pending'
           GROUP BY a.id, a.held_nanos
           HAVING a.held_nanos <> coalesce(sum(h.amount_nanos - h.posted_nanos), 0)""",
    ),
    Invariant(
        "floors-hold",
        "No account is below its floor.",
        """SELECT id FROM billing_ledgeraccount
           WHERE posted_nanos - held_nanos < min_available_nanos""",
    ),
    Invariant(
        "usage-equals-transfers",
        "A usage transfer moves the gross of its events, out of their consumer's wallet.",
        """SELECT coalesce(t.id, u.transfer_id) FROM (
               SELECT t.id, -sum(e.amount_nanos) FILTER (WHERE a.kind IN ('wallet', 'receivable'))
                       AS gross_nanos,
                   coalesce(sum(e.amount_nanos) FILTER (
                       WHERE a.kind IN ('creator_reserve', 'creator_payable')), 0)
                       AS creator_nanos,
                   min(a.holder_id::text) FILTER (WHERE a.kind IN ('wallet', 'receivable'))
                       AS account_id
               FROM billing_transfer t
               JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.kind = 'usage' GROUP BY t.id
           ) t FULL JOIN (
               SELECT u.transfer_id, sum(u.gross_nanos) AS gross_nanos,
                   sum(u.creator_nanos) AS creator_nanos, min(u.account_id::text) AS account_id,
                   min(u.creator_id::text) AS creator_id, count(DISTINCT u.account_id) AS accounts,
                   count(DISTINCT u.creator_id) AS creators
               FROM billing_usageevent u WHERE u.gross_nanos > 0 GROUP BY u.transfer_id
           ) u ON u.transfer_id = t.id
           WHERE t.gross_nanos IS DISTINCT FROM u.gross_nanos
               OR t.creator_nanos IS DISTINCT FROM u.creator_nanos
               OR t.account_id IS DISTINCT FROM u.account_id OR u.accounts <> 1
               OR u.creators <> 1""",
    ),
    Invariant(
        "creators-get-their-parts",
        "A usage transfer gives each creator the parts of its events, less what royalties give.",
        """SELECT coalesce(e.transfer_id, s.transfer_id) FROM (
               SELECT e.transfer_id, a.holder_id, sum(e.amount_nanos) AS nanos
               FROM billing_transfer t
               JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.kind = 'usage' AND a.kind IN ('creator_reserve', 'creator_payable')
               GROUP BY 1, 2
           ) e FULL JOIN (
               SELECT p.transfer_id, p.holder_id, sum(p.nanos) AS nanos FROM (
                   SELECT transfer_id, creator_id AS holder_id, creator_nanos AS nanos
                   FROM billing_usageevent WHERE creator_nanos > 0
                   UNION ALL SELECT u.transfer_id, u.creator_id, -s.amount_nanos
                   FROM billing_royaltyshare s
                   LEFT JOIN billing_usageevent u ON u.prediction_id = s.prediction_id
                   UNION ALL SELECT u.transfer_id, r.beneficiary_id, s.amount_nanos
                   FROM billing_royaltyshare s
                   JOIN billing_royalty r ON r.id = s.royalty_id
                   LEFT JOIN billing_usageevent u ON u.prediction_id = s.prediction_id
               ) p GROUP BY 1, 2 HAVING sum(p.nanos) <> 0
           ) s ON s.transfer_id = e.transfer_id AND s.holder_id = e.holder_id
           WHERE e.nanos IS DISTINCT FROM s.nanos""",
    ),
    Invariant(
        "royalties-equal-terms",
        "Each prediction gives by each royalty of its version what the royalty says.",
        # Whoever began or ended within a minute of the booking may have been seen or not.
        """SELECT coalesce(s.prediction_id, d.prediction_id) FROM billing_royaltyshare s
           FULL JOIN (
               SELECT u.prediction_id, r.id AS royalty_id,
                   u.creator_nanos * r.bps / 10000 AS nanos,
                   t.created_at > r.created_at + interval '1 minute'
                       AND t.created_at < coalesce(r.ended_at, 'infinity') - interval '1 minute'
                       AS is_owed
               FROM billing_royalty r
               JOIN billing_usageevent u ON u.version_id = r.version_id
                   AND u.creator_id <> r.beneficiary_id
               JOIN billing_transfer t ON t.id = u.transfer_id
               WHERE u.creator_nanos * r.bps >= 10000
           ) d ON d.prediction_id = s.prediction_id AND d.royalty_id = s.royalty_id
           WHERE s.amount_nanos <> d.nanos OR d.nanos IS NULL
               OR (s.amount_nanos IS NULL AND d.is_owed)""",
    ),
    Invariant(
        "usage-equals-price",
        "The gross of each usage event is what the price that it pinned says of its units.",
        """SELECT u.prediction_id FROM billing_usageevent u
           JOIN billing_price p ON p.id = u.price_id
           WHERE u.gross_nanos IS DISTINCT FROM CASE
               WHEN u.mode = 'test' THEN 0
               WHEN (p.free_units > 0 OR p.tiers <> '[]') <> (u.position IS NOT NULL) THEN NULL
               WHEN p.is_plain THEN u.units * p.nanos_per_prediction
               ELSE billing_rate_again(p.nanos_per_prediction, p.rates, p.minimum_nanos,
                   p.free_units, p.tiers, u.units, u.metered, u.position) END""",
    ),
    Invariant(
        "positions-follow",
        "Each counted event stands where those before it in its month end, up to the counter.",
        """SELECT coalesce(e.prediction_id::text, c.id::text) FROM (
               SELECT e.*, sum(e.units) OVER (month ORDER BY e.position) - e.units AS before,
                   sum(e.units) OVER month AS total
               FROM (
                   SELECT u.prediction_id, u.account_id, p.model_id, u.units, u.position,
                       date_trunc('month', u.occurred_at AT TIME ZONE 'UTC')::date AS starts_on
                   FROM billing_usageevent u JOIN billing_price p ON p.id = u.price_id
                   WHERE u.position IS NOT NULL
               ) e WINDOW month AS (PARTITION BY e.account_id, e.model_id, e.starts_on)
           ) e FULL JOIN billing_usagecounter c ON c.account_id = e.account_id
               AND c.model_id = e.model_id AND c.starts_on = e.starts_on
           WHERE e.position IS DISTINCT FROM e.before OR c.units IS DISTINCT FROM e.total""",
    ),
    Invariant(
        "creator-parts-equal-price",
        "The creator's part of each usage event is the share that its price pinned.",
        """SELECT u.prediction_id FROM billing_usageevent u
           JOIN billing_price p ON p.id = u.price_id
           WHERE u.creator_nanos <> u.gross_nanos * p.creator_share_bps / 10000""",
    ),
    Invariant(
        "spend-equals-usage",
        "What a key has spent is the gross of its usage events: by days, by months and in all.",
        """SELECT coalesce(u.api_key_id, s.api_key_id) FROM (
               SELECT api_key_id, sum(gross_nanos) AS nanos FROM billing_usageevent
               WHERE api_key_id IS NOT NULL AND gross_nanos > 0 GROUP BY 1
           ) u FULL JOIN (
               SELECT api_key_id, sum(spent_nanos) FILTER (WHERE period = 'day') AS by_day,
                   sum(spent_nanos) FILTER (WHERE period = 'month') AS by_month,
                   sum(spent_nanos) FILTER (WHERE period = 'total') AS total
               FROM billing_keyspend GROUP BY 1
           ) s ON s.api_key_id = u.api_key_id
           WHERE coalesce(s.by_day, 0) <> coalesce(u.nanos, 0)
               OR coalesce(s.by_month, 0) <> coalesce(u.nanos, 0)
               OR coalesce(s.total, 0) <> coalesce(u.nanos, 0)""",
    ),
    Invariant(
        "key-holds-equal-holds",
        "What a key has reserved is the sum of the open holds that count against its budgets.",
        """SELECT coalesce(h.api_key_id, s.api_key_id) FROM (
               SELECT api_key_id, sum(amount_nanos - posted_nanos) AS nanos FROM billing_hold
               WHERE api_key_id IS NOT NULL AND state = 'pending' GROUP BY 1
           ) h FULL JOIN (
               SELECT api_key_id, sum(held_nanos) FILTER (WHERE period = 'day') AS by_day,
                   sum(held_nanos) FILTER (WHERE period = 'month') AS by_month,
                   sum(held_nanos) FILTER (WHERE period = 'total') AS total
               FROM billing_keyspend GROUP BY 1
           ) s ON s.api_key_id = h.api_key_id
           WHERE coalesce(s.by_day, 0) <> coalesce(h.nanos, 0)
               OR coalesce(s.by_month, 0) <> coalesce(h.nanos, 0)
               OR coalesce(s.total, 0) <> coalesce(h.nanos, 0)""",
    ),
    Invariant(
        "usage-equals-answers",
        "A prediction was booked exactly when it succeeded.",
        """SELECT coalesce(u.prediction_id, p.id) FROM billing_usageevent u
           FULL JOIN (SELECT id FROM inference_prediction WHERE state = 'succeeded') p
               ON p.id = u.prediction_id
           WHERE p.id IS NULL OR u.prediction_id IS NULL""",
    ),
    Invariant(
        "holds-are-young",
        "No hold outlives its time by more than two minutes.",
        """SELECT id FROM billing_hold WHERE state = 'pending'
           AND expires_at < clock_timestamp() - interval '2 minutes'""",
    ),
    Invariant(
        "charges-are-sealed",
        "Every charge is in a batch of receipts ten minutes later.",
        """SELECT u.prediction_id FROM billing_usageevent u
           LEFT JOIN billing_receiptleaf l ON l.prediction_id = u.prediction_id
           WHERE l.prediction_id IS NULL
               AND u.occurred_at < clock_timestamp() - interval '10 minutes'""",
    ),
    Invariant(
        "batches-chain",
        "Each batch of receipts names the one before it, and has as many leaves as it says.",
        f"""SELECT b.seq FROM billing_receiptbatch b
           LEFT JOIN billing_receiptbatch p ON p.seq = b.seq - 1
           LEFT JOIN (
               SELECT batch_id, count(*) AS leaves, max(index) + 1 AS places
               FROM billing_receiptleaf GROUP BY 1
           ) l ON l.batch_id = b.seq
           WHERE b.previous <> CASE WHEN b.seq = 1 THEN '{GENESIS}' ELSE coalesce(p.hash, '') END
               OR b.size IS DISTINCT FROM l.leaves
               OR b.size IS DISTINCT FROM l.places""",  # noqa: S608 - of a constant
    ),
    Invariant(
        "topups-are-booked",
        "Each credited top-up has exactly its transfer: the credit, its tax, and all at Stripe.",
        """SELECT p.id FROM billing_topup p
           LEFT JOIN billing_transfer t ON t.idempotency_key = 'topup:' || p.payment_intent_id
           LEFT JOIN LATERAL (
               SELECT sum(e.amount_nanos) FILTER (
                       WHERE a.kind = 'wallet' AND a.holder_id = p.account_id) AS wallet_nanos,
                   sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing')
                       AS clearing_nanos
               FROM billing_transferentry e
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE e.transfer_id = t.id
           ) e ON true
           WHERE p.state = 'credited' AND (
               e.wallet_nanos IS DISTINCT FROM p.amount_cents::bigint * 10000000
               OR e.clearing_nanos IS DISTINCT FROM
                   -(p.amount_cents::bigint + p.tax_cents) * 10000000)""",
    ),
    Invariant(
        "credits-are-approved",
        "Each credit, adjustment and write-off was moved as proposed, a large one by two people.",
        # What payouts forfeit and deletions take have checks of their own; what is left of a
        # closed credit is forgiven where Stripe cannot count it. Credit that goes from a
        # receivable to its own wallet, or makes up for what was written off, is in a report,
        # which has a check of its own too.
        """SELECT coalesce(t.id, a.id) FROM (
               SELECT * FROM billing_transfer t WHERE kind IN ('credit', 'write_off') OR (
                   kind = 'adjustment' AND idempotency_key NOT LIKE 'forfeit:%'
                   AND idempotency_key NOT LIKE 'deletion:%'
                   AND NOT (idempotency_key LIKE 'postpaid-closed:%' AND 10000000 > (
                       SELECT max(e.amount_nanos) FROM billing_transferentry e
                       WHERE e.transfer_id = t.id))
                   AND NOT (idempotency_key LIKE 'postpaid-returned:%' AND 2 = (
                       SELECT count(*) FROM billing_transferentry e
                       JOIN billing_ledgeraccount r ON r.id = e.ledger_account_id
                       JOIN billing_transferentry f ON f.transfer_id = e.transfer_id
                       JOIN billing_ledgeraccount w ON w.id = f.ledger_account_id
                       WHERE e.transfer_id = t.id AND ((w.holder_id = r.holder_id
                           AND (r.kind, w.kind, e.amount_nanos < 0) IN
                               (('receivable', 'wallet', true), ('wallet', 'receivable', false)))
                           OR (r.kind, w.kind, e.amount_nanos < 0) IN
                               (('receivable', 'bad_debt', true),
                                ('bad_debt', 'receivable', false))))))
           ) t FULL JOIN (
               SELECT * FROM billing_adjustment WHERE state = 'posted'
           ) a ON a.transfer_id = t.id AND a.kind = t.kind
               AND t.idempotency_key = 'adjustment:' || a.id
           LEFT JOIN billing_transferentry s ON s.transfer_id = t.id
               AND s.ledger_account_id = a.source_id AND s.amount_nanos = -a.amount_nanos
           LEFT JOIN billing_transferentry g ON g.transfer_id = t.id
               AND g.ledger_account_id = a.target_id AND g.amount_nanos = a.amount_nanos
           WHERE t.id IS NULL OR a.id IS NULL OR s.id IS NULL OR g.id IS NULL
               OR (a.needs_two AND (a.decided_by_id IS NULL OR a.decided_by_id = a.created_by_id))
               OR (NOT a.needs_two AND a.amount_nanos > 1000000000000)""",
    ),
    Invariant(
        "reversals-fit",
        "What went back of a prediction is at most what it cost, to and from who paid and got it.",
        """SELECT coalesce(t.id, r.prediction_id) FROM (
               SELECT t.id, t.idempotency_key,
                   sum(e.amount_nanos) FILTER (WHERE a.kind IN ('wallet', 'receivable'))
                       AS gross_nanos,
                   coalesce(-sum(e.amount_nanos) FILTER (
                       WHERE a.kind IN ('creator_reserve', 'creator_payable')), 0)
                       AS creator_nanos,
                   min(a.holder_id::text) FILTER (WHERE a.kind IN ('wallet', 'receivable'))
                       AS account_id
               FROM billing_transfer t
               JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.kind = 'usage_reversal' GROUP BY t.id
           ) t FULL JOIN billing_usagereversal r ON r.transfer_id = t.id
           LEFT JOIN billing_usageevent u ON u.prediction_id = r.prediction_id
           WHERE t.id IS NULL OR r.prediction_id IS NULL OR u.prediction_id IS NULL
               OR t.idempotency_key <> 'usage_reversal:' || r.prediction_id
               OR t.gross_nanos IS DISTINCT FROM r.gross_nanos
               OR t.creator_nanos IS DISTINCT FROM r.creator_nanos
               OR t.account_id IS DISTINCT FROM u.account_id::text
               OR EXISTS (
                   -- From whom it came: the creator, less what royalties gave to others.
                   SELECT 1 FROM (
                       SELECT a.holder_id, -sum(e.amount_nanos) AS nanos
                       FROM billing_transferentry e
                       JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                       WHERE e.transfer_id = t.id
                           AND a.kind IN ('creator_reserve', 'creator_payable') GROUP BY 1
                   ) e FULL JOIN (
                       SELECT holder_id, sum(nanos) AS nanos FROM (
                           SELECT y.beneficiary_id AS holder_id,
                               div(s.amount_nanos::numeric * r.gross_nanos,
                                   nullif(u.gross_nanos, 0)) AS nanos
                           FROM billing_royaltyshare s
                           JOIN billing_royalty y ON y.id = s.royalty_id
                           WHERE s.prediction_id = u.prediction_id
                           UNION ALL
                           SELECT u.creator_id, r.creator_nanos - coalesce((
                               SELECT sum(div(
                                   s.amount_nanos::numeric * r.gross_nanos,
                                   nullif(u.gross_nanos, 0)))
                               FROM billing_royaltyshare s
                               WHERE s.prediction_id = u.prediction_id), 0)
                       ) x GROUP BY 1 HAVING sum(nanos) <> 0
                   ) w ON w.holder_id = e.holder_id
                   WHERE e.nanos IS DISTINCT FROM w.nanos)
               OR r.account_id <> u.account_id OR r.creator_id <> u.creator_id
               OR r.gross_nanos > u.gross_nanos OR r.creator_nanos > u.creator_nanos
               OR r.gross_nanos - r.creator_nanos > u.gross_nanos - u.creator_nanos""",
    ),
    Invariant(
        "given-up-credit-was-deleted",
        "What a deletion took was the wallet of the account that it deletes, at most once.",
        """SELECT t.id FROM billing_transfer t
           LEFT JOIN marketplace_accountdeletion d ON t.idempotency_key = 'deletion:' || d.id
               AND d.state IN ('running', 'done')
           WHERE t.idempotency_key LIKE 'deletion:%' AND (
               d.id IS NULL OR t.kind <> 'adjustment' OR 2 <> (
                   SELECT count(*) FROM billing_transferentry e
                   JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                   WHERE e.transfer_id = t.id AND (
                       (a.kind = 'wallet' AND a.holder_id = d.account_id AND e.amount_nanos < 0)
                       OR (a.kind = 'platform_revenue' AND e.amount_nanos > 0))))""",
    ),
    WARM_HOUR_INVARIANT,
    *PREPAID_INVARIANTS,
    *PAYOUT_INVARIANTS,
    *POSTPAID_INVARIANTS,
)


def check_invariants() -> list[Finding]:
    """Run every check in one snapshot, so that money on its way does not look lost."""
    findings = []
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for invariant in INVARIANTS:
            cursor.execute(invariant.sql)
            rows = [str(row[0]) for row in cursor.fetchall()]
            findings.append(Finding(invariant, len(rows), rows[:SAMPLE_SIZE]))
    return findings


def find_ledger_account(
    kind: LedgerAccount.Kind, *, holder_id: UUID | None
) -> LedgerAccount | None:
    """The ledger account of a holder, or None before its first money."""
    return LedgerAccount.objects.filter(kind=kind, holder_id=holder_id).first()


def list_entries(account: LedgerAccount) -> QuerySet[TransferEntry]:
    """An account's statement, newest first."""
    return (
        TransferEntry.objects.filter(ledger_account=account)
        .select_related("transfer")
        .order_by("-id")
    )
