"""What is always true of earnings, releases and payouts."""

from __future__ import annotations

from billing.selectors.earnings import EARNED_SQL
from billing.selectors.invariant import Invariant

PAYOUT_INVARIANTS = (
    Invariant(
        "releases-equal-days",
        "Each release moved what its day's entries in the reserve come to, and no day between"
        " two releases is left out.",
        """SELECT coalesce(r.creator_id, d.creator_id) || ' ' || coalesce(r.day, d.day) FROM (
               SELECT a.holder_id AS creator_id, (t.created_at AT TIME ZONE 'UTC')::date AS day,
                   sum(e.amount_nanos) AS nanos, count(*) AS entries
               FROM billing_transferentry e
               JOIN billing_transfer t ON t.id = e.transfer_id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE a.kind = 'creator_reserve' AND t.kind <> 'release' GROUP BY 1, 2
           ) d FULL JOIN billing_release r ON r.creator_id = d.creator_id AND r.day = d.day
           LEFT JOIN billing_creatorreserve c ON c.creator_id = d.creator_id
           WHERE CASE WHEN r.id IS NULL THEN d.day <= c.released_until
               ELSE r.amount_nanos IS DISTINCT FROM d.nanos OR r.entries <> d.entries
                   OR r.amount_nanos <> coalesce((
                       SELECT sum(e.amount_nanos) FROM billing_transferentry e
                       JOIN billing_transfer t ON t.id = e.transfer_id
                       JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                       WHERE e.transfer_id = r.transfer_id AND a.kind = 'creator_payable'
                           AND a.holder_id = r.creator_id AND t.kind = 'release'), 0)
               END
           UNION ALL
           SELECT t.idempotency_key FROM billing_transfer t
           LEFT JOIN billing_release r ON r.transfer_id = t.id
           WHERE t.kind = 'release' AND r.id IS NULL""",
    ),
    Invariant(
        "payouts-are-booked",
        "What is on its way to a creator is the sum of its open payouts; each that ended has"
        " the transfer of its end, and each reversal that was done has its own.",
        """SELECT coalesce(a.holder_id, i.creator_id)::text FROM (
               SELECT holder_id, posted_nanos FROM billing_ledgeraccount
               WHERE kind = 'payout_in_flight'
           ) a FULL JOIN (
               SELECT creator_id, sum(amount_cents)::bigint * 10000000 AS nanos
               FROM billing_payoutitem WHERE state IN ('waiting', 'sending') GROUP BY 1
           ) i ON i.creator_id = a.holder_id
           WHERE coalesce(a.posted_nanos, 0) <> coalesce(i.nanos, 0)
           UNION ALL
           SELECT w.key FROM (
               SELECT 'payout:' || id AS key, creator_id, 'creator_payable' AS kind,
                   -amount_cents::bigint * 10000000 AS nanos FROM billing_payoutitem
               UNION ALL
               SELECT CASE state WHEN 'paid' THEN 'payout-sent:' ELSE 'payout-failed:' END || id,
                   creator_id, 'payout_in_flight', -amount_cents::bigint * 10000000
               FROM billing_payoutitem WHERE state IN ('paid', 'refused')
               UNION ALL
               SELECT 'clawback:' || v.id, i.creator_id, 'creator_payable',
                   v.amount_cents::bigint * 10000000
               FROM billing_payoutreversal v JOIN billing_payoutitem i ON i.id = v.item_id
               WHERE v.state = 'done'
               UNION ALL
               SELECT 'forfeit:' || v.id, i.creator_id, 'creator_payable',
                   -v.amount_cents::bigint * 10000000
               FROM billing_payoutreversal v JOIN billing_payoutitem i ON i.id = v.item_id
               WHERE v.is_forfeited
           ) w FULL JOIN (
               SELECT t.id, t.idempotency_key AS key FROM billing_transfer t
               WHERE t.kind IN ('payout', 'payout_sent', 'payout_failed', 'clawback')
                   OR t.idempotency_key LIKE 'forfeit:%'
           ) t ON t.key = w.key
           WHERE w.key IS NULL OR t.key IS NULL OR w.nanos IS DISTINCT FROM (
               SELECT e.amount_nanos FROM billing_transferentry e
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE e.transfer_id = t.id AND a.kind = w.kind AND a.holder_id = w.creator_id)
           UNION ALL
           SELECT i.id::text FROM billing_payoutitem i JOIN billing_payoutreversal v
               ON v.item_id = i.id AND v.state <> 'refused'
           GROUP BY i.id HAVING sum(v.amount_cents) > i.amount_cents OR i.state <> 'paid'""",
    ),
    Invariant(
        "earnings-add-up",
        "What was paid to a creator and not taken back, what is on its way, payable and in"
        " reserve is what predictions earned it, and corrections.",
        f"""SELECT creator_id::text FROM (
               SELECT holder_id AS creator_id, posted_nanos AS nanos FROM billing_ledgeraccount
               WHERE kind IN ('creator_reserve', 'creator_payable', 'payout_in_flight')
               UNION ALL
               SELECT creator_id, amount_cents::bigint * 10000000 FROM billing_payoutitem
               WHERE state = 'paid'
               UNION ALL
               SELECT i.creator_id, -v.amount_cents::bigint * 10000000
               FROM billing_payoutreversal v JOIN billing_payoutitem i ON i.id = v.item_id
               WHERE v.state = 'done'
               UNION ALL
               SELECT earner_id, -sum(earned_nanos) FROM ({EARNED_SQL}) e GROUP BY 1
               UNION ALL
               SELECT a.holder_id, -e.amount_nanos FROM billing_transferentry e
               JOIN billing_transfer t ON t.id = e.transfer_id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE a.kind IN ('creator_reserve', 'creator_payable', 'payout_in_flight')
                   AND t.kind NOT IN ('usage', 'release', 'payout', 'payout_sent',
                       'payout_failed', 'clawback')
           ) s GROUP BY creator_id HAVING sum(nanos) <> 0""",  # noqa: S608 - of a constant
    ),
)
