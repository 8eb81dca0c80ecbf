"""Background work of billing; each task calls one service and may run twice."""

from billing.tasks.budget import alert_budgets
from billing.tasks.ledger import check_ledger, expire_holds
from billing.tasks.postpaid import (
    advance_postpaid,
    compare_usage,
    poll_invoices,
    remind_of_invoices,
    report_usage,
)
from billing.tasks.receipt import seal_receipts
from billing.tasks.stripe_event import apply_stripe_event, sweep_stripe_events
from billing.tasks.topup import poll_topups

__all__ = [
    "advance_postpaid",
    "alert_budgets",
    "apply_stripe_event",
    "check_ledger",
    "compare_usage",
    "expire_holds",
    "poll_invoices",
    "poll_topups",
    "remind_of_invoices",
    "report_usage",
    "seal_receipts",
    "sweep_stripe_events",
]
