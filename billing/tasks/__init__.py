"""Background work of billing; each task calls one service and may run twice."""

from billing.tasks.budget import alert_budgets
from billing.tasks.catalogue_facts import tell_prices, tell_use
from billing.tasks.connect import poll_connect_accounts
from billing.tasks.ledger import check_ledger, expire_holds
from billing.tasks.payout import advance_payouts, start_payouts
from billing.tasks.postpaid import (
    advance_postpaid,
    compare_usage,
    poll_invoices,
    remind_of_invoices,
    report_usage,
)
from billing.tasks.prepaid import (
    poll_disputes,
    poll_refunds,
    poll_stripe_events,
    run_auto_topups,
    scan_for_fraud,
)
from billing.tasks.price import mail_price_rises
from billing.tasks.receipt import seal_receipts
from billing.tasks.reconcile import carry_out_reconciliation, reconcile_nightly
from billing.tasks.release import release_earnings
from billing.tasks.stripe_event import apply_stripe_event, sweep_stripe_events
from billing.tasks.topup import poll_topups

__all__ = [
    "advance_payouts",
    "advance_postpaid",
    "alert_budgets",
    "apply_stripe_event",
    "carry_out_reconciliation",
    "check_ledger",
    "compare_usage",
    "expire_holds",
    "mail_price_rises",
    "poll_connect_accounts",
    "poll_disputes",
    "poll_invoices",
    "poll_refunds",
    "poll_stripe_events",
    "poll_topups",
    "reconcile_nightly",
    "release_earnings",
    "remind_of_invoices",
    "report_usage",
    "run_auto_topups",
    "scan_for_fraud",
    "seal_receipts",
    "start_payouts",
    "sweep_stripe_events",
    "tell_prices",
    "tell_use",
]
