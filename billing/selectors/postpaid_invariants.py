"""What is always true of those who pay later."""

from __future__ import annotations

from billing.selectors.invariant import Invariant

POSTPAID_INVARIANTS = (
    Invariant(
        "reports-equal-usage",
        "Reports are the credit usage of sealed hours less what went back, to the nano.",
        # A report and its transfers; how each report goes on from the one before it; an account
        # and the sum of its reports; a booking of a sealed hour, or a return, in no report.
        """SELECT r.id::text FROM billing_meterreport r LEFT JOIN (
               SELECT m.report_id,
                   sum(-e.amount_nanos) FILTER (WHERE t.kind = 'usage') AS used,
                   sum(e.amount_nanos) FILTER (WHERE t.kind = 'usage_reversal') AS reversed,
                   sum(-e.amount_nanos) FILTER (WHERE t.kind = 'adjustment') AS returned
               FROM billing_meteredtransfer m
               JOIN billing_transfer t ON t.id = m.transfer_id
               JOIN billing_transferentry e ON e.transfer_id = m.transfer_id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                   AND a.kind = 'receivable'
               JOIN billing_meterreport o ON o.id = m.report_id AND o.account_id = a.holder_id
               GROUP BY 1
           ) u ON u.report_id = r.id
           WHERE (r.usage_nanos, r.reversed_nanos, r.returned_nanos)
               <> (coalesce(u.used, 0), coalesce(u.reversed, 0), coalesce(u.returned, 0))
           UNION ALL
           SELECT id::text FROM (
               SELECT *, total_nanos - credit_nanos AS net,
                   row_number() OVER w AS place,
                   coalesce(lag(total_nanos) OVER w, 0) AS before,
                   coalesce(lag(total_nanos - credit_nanos) OVER w, 0) AS net_before
               FROM billing_meterreport WINDOW w AS (PARTITION BY account_id ORDER BY number)
           ) r
           WHERE number <> place
               OR net <> net_before + usage_nanos - reversed_nanos + returned_nanos
               OR total_nanos <> greatest(before, net)
               OR value_micro <> total_nanos / 1000 - before / 1000
           UNION ALL
           SELECT account_id::text FROM billing_meterreport GROUP BY account_id
           HAVING sum(value_micro) * 1000 + (array_agg(residual_nanos ORDER BY number DESC))[1]
                   - (array_agg(credit_nanos ORDER BY number DESC))[1]
                   <> sum(usage_nanos - reversed_nanos + returned_nanos)
           UNION ALL
           SELECT t.id::text FROM billing_transferentry e
           JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id AND a.kind = 'receivable'
           JOIN billing_transfer t ON t.id = e.transfer_id
           LEFT JOIN billing_meteredtransfer m ON m.transfer_id = t.id
           WHERE m.transfer_id IS NULL AND (
               t.idempotency_key LIKE 'postpaid-returned:%'
               OR t.kind IN ('usage', 'usage_reversal') AND t.created_at < (
                   SELECT max(hour) + interval '1 hour' FROM billing_meterseal
                   WHERE sealed_at IS NOT NULL))""",
    ),
    Invariant(
        "receivable-equals-usage-less-payments",
        "What an account owes is its usage on credit less what went back and what it has paid.",
        """SELECT a.id FROM billing_ledgeraccount a
           LEFT JOIN (
               SELECT e.ledger_account_id, sum(u.gross_nanos) AS nanos
               FROM billing_transferentry e JOIN billing_usageevent u
                   ON u.transfer_id = e.transfer_id
               WHERE e.amount_nanos < 0 GROUP BY 1
           ) u ON u.ledger_account_id = a.id
           LEFT JOIN (
               SELECT e.ledger_account_id, sum(r.gross_nanos) AS nanos
               FROM billing_usagereversal r JOIN billing_transferentry e
                   ON e.transfer_id = r.transfer_id AND e.amount_nanos > 0
               GROUP BY 1
           ) b ON b.ledger_account_id = a.id
           LEFT JOIN (
               SELECT account_id, sum(reported_micro * 1000
                   - (total_cents - paid_cents) * 10000000) AS nanos FROM billing_invoice
               WHERE booked_at IS NOT NULL AND written_off_nanos = 0 GROUP BY 1
           ) p ON p.account_id = a.holder_id
           LEFT JOIN (
               SELECT e.ledger_account_id, sum(e.amount_nanos) AS nanos
               FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
               WHERE t.kind NOT IN ('usage', 'usage_reversal', 'invoice_paid') GROUP BY 1
           ) o ON o.ledger_account_id = a.id
           WHERE a.kind = 'receivable' AND a.posted_nanos <>
               coalesce(p.nanos, 0) - coalesce(u.nanos, 0) + coalesce(b.nanos, 0)
                   + coalesce(o.nanos, 0)""",
    ),
    Invariant(
        "invoices-are-booked",
        "Each payment of an invoice is booked with what it was for, and nothing else is.",
        """SELECT coalesce(i.stripe_id, t.idempotency_key) FROM (
               SELECT * FROM billing_invoice WHERE booked_at IS NOT NULL
                   AND (total_cents <> 0 OR reported_micro <> 0 OR paid_cents <> 0)
           ) i FULL JOIN (
               SELECT t.idempotency_key, t.kind,
                   -coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing'), 0)
                       AS paid,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = CASE
                       WHEN t.kind = 'recovery' THEN 'bad_debt' ELSE 'receivable' END), 0)
                       AS billed,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'tax_payable'), 0) AS tax,
                   min(a.holder_id::text) FILTER (WHERE a.kind = 'receivable') AS account_id
               FROM billing_transfer t
               JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.kind IN ('invoice_paid', 'recovery') GROUP BY 1, 2
           ) t ON t.idempotency_key = 'invoice:' || i.stripe_id
           WHERE i.id IS NULL OR t.idempotency_key IS NULL
               OR t.paid <> i.paid_cents * 10000000
               OR (t.kind = 'recovery') <> (i.written_off_nanos > 0)
               OR t.billed <> i.reported_micro * 1000 - (i.total_cents - i.paid_cents) * 10000000
                   -- What a person let be is bad debt, too.
                   + CASE WHEN t.kind = 'recovery' AND i.check_state = 'accepted'
                       THEN i.subtotal_cents * 10000000 - i.reported_micro * 1000 ELSE 0 END
               OR t.tax <> i.tax_cents * 10000000
               OR (t.billed <> 0 AND t.kind = 'invoice_paid'
                   AND t.account_id IS DISTINCT FROM i.account_id::text)
               OR i.check_state = 'agrees' AND abs(i.subtotal_cents * 10000000
                   - i.reported_micro * 1000)
                   > 10000000 * greatest(1, jsonb_array_length(i.lines))""",
    ),
    Invariant(
        "write-offs-match-invoices",
        "Each write-off is noted on its invoice, once, and came out of that account's debt.",
        """SELECT coalesce(i.id, w.invoice_id)::text FROM (
               SELECT * FROM billing_invoice WHERE written_off_nanos <> 0
           ) i FULL JOIN (
               SELECT * FROM billing_adjustment WHERE kind = 'write_off' AND state = 'posted'
           ) w ON w.invoice_id = i.id
           LEFT JOIN billing_ledgeraccount s ON s.id = w.source_id
           LEFT JOIN billing_ledgeraccount g ON g.id = w.target_id
           WHERE i.id IS NULL OR w.id IS NULL OR w.amount_nanos <> i.written_off_nanos
               OR s.kind <> 'bad_debt' OR g.kind <> 'receivable'
               OR g.holder_id <> i.account_id""",
    ),
)
