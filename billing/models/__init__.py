"""Tables of billing, by noun."""

from billing.models.budget import KeySpend
from billing.models.budget_alert import BudgetAlert
from billing.models.invoice import Invoice, InvoiceNotice
from billing.models.ledger import Hold, LedgerAccount, Transfer, TransferEntry
from billing.models.meter import MeteredTransfer, MeterReport, MeterSeal
from billing.models.postpaid import PostpaidTerms, TaxDetails
from billing.models.price import Price
from billing.models.receipt import ReceiptBatch, ReceiptKey, ReceiptLeaf
from billing.models.stripe_event import StripeCall, StripeEvent
from billing.models.topup import StripeCustomer, Topup
from billing.models.usage import UsageEvent

__all__ = [
    "BudgetAlert",
    "Hold",
    "Invoice",
    "InvoiceNotice",
    "KeySpend",
    "LedgerAccount",
    "MeterReport",
    "MeterSeal",
    "MeteredTransfer",
    "PostpaidTerms",
    "Price",
    "ReceiptBatch",
    "ReceiptKey",
    "ReceiptLeaf",
    "StripeCall",
    "StripeCustomer",
    "StripeEvent",
    "TaxDetails",
    "Topup",
    "Transfer",
    "TransferEntry",
    "UsageEvent",
]
