"""Billing in the admin console: everything can be read, nothing edited."""

from billing.admin.adjustment import AdjustmentAdmin, UsageReversalAdmin
from billing.admin.budget import BudgetAlertAdmin, KeySpendAdmin
from billing.admin.ledger import HoldAdmin, LedgerAccountAdmin, TransferAdmin
from billing.admin.price import PriceAdmin
from billing.admin.receipt import ReceiptBatchAdmin, ReceiptKeyAdmin
from billing.admin.reconcile import ReconcileDifferenceAdmin, ReconcileRunAdmin
from billing.admin.stripe import StripeCallAdmin, StripeEventAdmin, TopupAdmin
from billing.admin.usage import UsageEventAdmin

__all__ = [
    "AdjustmentAdmin",
    "BudgetAlertAdmin",
    "HoldAdmin",
    "KeySpendAdmin",
    "LedgerAccountAdmin",
    "PriceAdmin",
    "ReceiptBatchAdmin",
    "ReceiptKeyAdmin",
    "ReconcileDifferenceAdmin",
    "ReconcileRunAdmin",
    "StripeCallAdmin",
    "StripeEventAdmin",
    "TopupAdmin",
    "TransferAdmin",
    "UsageEventAdmin",
    "UsageReversalAdmin",
]
