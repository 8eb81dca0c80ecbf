"""What is always true of those who pay later."""

from __future__ import annotations

from billing.selectors.invariant import Invariant

POSTPAID_INVARIANTS = (
    Invariant(
        "reports-equal-usage",
        "Reports and their carried residual are the credit usage of all sealed hours, to the nano.",
        # A report and its transfers; an account and the sum of its reports; a booking of a
        # sealed hour that is in no report.
        """SELECT r.id::text FROM billing_meterreport r LEFT JOIN (
               SELECT m.report_id, -sum(e.amount_nanos) AS nanos
               FROM billing_meteredtransfer m
               JOIN billing_transferentry e ON e.transfer_id = m.transfer_id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
                   AND a.kind = 'receivable'
               JOIN billing_meterreport o ON o.id = m.report_id AND o.account_id = a.holder_id
               GROUP BY 1
           ) u ON u.report_id = r.id
           WHERE r.usage_nanos IS DISTINCT FROM u.nanos
           UNION ALL
           SELECT account_id::text FROM billing_meterreport GROUP BY account_id
           HAVING sum(value_micro) * 1000 + (array_agg(residual_nanos ORDER BY total_nanos DESC))[1]
                   <> sum(usage_nanos)
               OR max(total_nanos) <> sum(usage_nanos)
           UNION ALL
           SELECT t.id::text FROM billing_transferentry e
           JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id AND a.kind = 'receivable'
           JOIN billing_transfer t ON t.id = e.transfer_id AND t.kind = 'usage'
           LEFT JOIN billing_meteredtransfer m ON m.transfer_id = t.id
           WHERE m.transfer_id IS NULL AND t.created_at < (
               SELECT max(hour) + interval '1 hour' FROM billing_meterseal
               WHERE sealed_at IS NOT NULL)""",
    ),
    Invariant(
        "receivable-equals-usage-less-payments",
        "What an account owes is its usage on credit less the invoices that it has paid.",
        """SELECT a.id FROM billing_ledgeraccount a
           LEFT JOIN (
               SELECT e.ledger_account_id, sum(u.gross_nanos) AS nanos
               FROM billing_transferentry e JOIN billing_usageevent u
                   ON u.transfer_id = e.transfer_id
               WHERE e.amount_nanos < 0 GROUP BY 1
           ) u ON u.ledger_account_id = a.id
           LEFT JOIN (
               SELECT account_id, sum(reported_micro * 1000
                   - (total_cents - paid_cents) * 10000000) AS nanos FROM billing_invoice
               WHERE booked_at IS NOT NULL GROUP BY 1
           ) p ON p.account_id = a.holder_id
           LEFT JOIN (
               SELECT e.ledger_account_id, sum(e.amount_nanos) AS nanos
               FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
               WHERE t.kind NOT IN ('usage', 'invoice_paid') GROUP BY 1
           ) o ON o.ledger_account_id = a.id
           WHERE a.kind = 'receivable' AND a.posted_nanos <>
               coalesce(p.nanos, 0) - coalesce(u.nanos, 0) + coalesce(o.nanos, 0)""",
    ),
    Invariant(
        "invoices-are-booked",
        "Each payment of an invoice is booked with what it was for, and nothing else is.",
        """SELECT coalesce(i.stripe_id, t.idempotency_key) FROM (
               SELECT * FROM billing_invoice WHERE booked_at IS NOT NULL
                   AND (total_cents <> 0 OR reported_micro <> 0 OR paid_cents <> 0)
           ) i FULL JOIN (
               SELECT t.idempotency_key,
                   -coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'stripe_clearing'), 0)
                       AS paid,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'receivable'), 0) AS billed,
                   coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'tax_payable'), 0) AS tax,
                   min(a.holder_id::text) FILTER (WHERE a.kind = 'receivable') AS account_id
               FROM billing_transfer t
               JOIN billing_transferentry e ON e.transfer_id = t.id
               JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
               WHERE t.kind = 'invoice_paid' GROUP BY 1
           ) t ON t.idempotency_key = 'invoice:' || i.stripe_id
           WHERE i.id IS NULL OR t.idempotency_key IS NULL
               OR t.paid <> i.paid_cents * 10000000
               OR t.billed <> i.reported_micro * 1000 - (i.total_cents - i.paid_cents) * 10000000
               OR t.tax <> i.tax_cents * 10000000
               OR (t.billed <> 0 AND t.account_id <> i.account_id::text)
               OR i.check_state = 'agrees' AND abs(i.subtotal_cents * 10000000
                   - i.reported_micro * 1000)
                   > 10000000 * greatest(1, jsonb_array_length(i.lines))""",
    ),
)
