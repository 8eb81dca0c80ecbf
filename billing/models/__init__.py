"""Tables of billing, by noun."""

from billing.models.adjustment import Adjustment
from billing.models.budget import KeySpend
from billing.models.budget_alert import BudgetAlert
from billing.models.ledger import Hold, LedgerAccount, Transfer, TransferEntry
from billing.models.price import Price
from billing.models.receipt import ReceiptBatch, ReceiptKey, ReceiptLeaf
from billing.models.reconcile import ReconcileDifference, ReconcileRun
from billing.models.reversal import UsageReversal
from billing.models.stripe_event import StripeCall, StripeEvent
from billing.models.topup import StripeCustomer, Topup
from billing.models.usage import UsageEvent

__all__ = [
    "Adjustment",
    "BudgetAlert",
    "Hold",
    "KeySpend",
    "LedgerAccount",
    "Price",
    "ReceiptBatch",
    "ReceiptKey",
    "ReceiptLeaf",
    "ReconcileDifference",
    "ReconcileRun",
    "StripeCall",
    "StripeCustomer",
    "StripeEvent",
    "Topup",
    "Transfer",
    "TransferEntry",
    "UsageEvent",
    "UsageReversal",
]
