"""Background work of billing; each task calls one service and may run twice."""

from billing.tasks.budget import alert_budgets
from billing.tasks.connect import poll_connect_accounts
from billing.tasks.ledger import check_ledger, expire_holds
from billing.tasks.payout import advance_payouts, start_payouts
from billing.tasks.receipt import seal_receipts
from billing.tasks.release import release_earnings
from billing.tasks.stripe_event import apply_stripe_event, sweep_stripe_events
from billing.tasks.topup import poll_topups

__all__ = [
    "advance_payouts",
    "alert_budgets",
    "apply_stripe_event",
    "check_ledger",
    "expire_holds",
    "poll_connect_accounts",
    "poll_topups",
    "release_earnings",
    "seal_receipts",
    "start_payouts",
    "sweep_stripe_events",
]
