"""Billing in the admin console: everything can be read, nothing edited."""

from billing.admin.budget import BudgetAlertAdmin, KeySpendAdmin
from billing.admin.ledger import HoldAdmin, LedgerAccountAdmin, TransferAdmin
from billing.admin.postpaid import (
    InvoiceAdmin,
    MeterReportAdmin,
    MeterSealAdmin,
    PostpaidTermsAdmin,
    TaxDetailsAdmin,
)
from billing.admin.price import PriceAdmin
from billing.admin.receipt import ReceiptBatchAdmin, ReceiptKeyAdmin
from billing.admin.stripe import StripeCallAdmin, StripeEventAdmin, TopupAdmin
from billing.admin.usage import UsageEventAdmin

__all__ = [
    "BudgetAlertAdmin",
    "HoldAdmin",
    "InvoiceAdmin",
    "KeySpendAdmin",
    "LedgerAccountAdmin",
    "MeterReportAdmin",
    "MeterSealAdmin",
    "PostpaidTermsAdmin",
    "PriceAdmin",
    "ReceiptBatchAdmin",
    "ReceiptKeyAdmin",
    "StripeCallAdmin",
    "StripeEventAdmin",
    "TaxDetailsAdmin",
    "TopupAdmin",
    "TransferAdmin",
    "UsageEventAdmin",
]
