"""Billing in the admin console: everything can be read, nothing edited."""

from billing.admin.budget import BudgetAlertAdmin, KeySpendAdmin
from billing.admin.ledger import HoldAdmin, LedgerAccountAdmin, TransferAdmin
from billing.admin.payout import (
    ConnectAccountAdmin,
    CreatorReserveAdmin,
    PayoutItemAdmin,
    PayoutReversalAdmin,
    PayoutRunAdmin,
    ReleaseAdmin,
)
from billing.admin.price import PriceAdmin
from billing.admin.receipt import ReceiptBatchAdmin, ReceiptKeyAdmin
from billing.admin.royalty import RoyaltyAdmin, RoyaltyShareAdmin
from billing.admin.stripe import StripeCallAdmin, StripeEventAdmin, TopupAdmin
from billing.admin.usage import UsageEventAdmin

__all__ = [
    "BudgetAlertAdmin",
    "ConnectAccountAdmin",
    "CreatorReserveAdmin",
    "HoldAdmin",
    "KeySpendAdmin",
    "LedgerAccountAdmin",
    "PayoutItemAdmin",
    "PayoutReversalAdmin",
    "PayoutRunAdmin",
    "PriceAdmin",
    "ReceiptBatchAdmin",
    "ReceiptKeyAdmin",
    "ReleaseAdmin",
    "RoyaltyAdmin",
    "RoyaltyShareAdmin",
    "StripeCallAdmin",
    "StripeEventAdmin",
    "TopupAdmin",
    "TransferAdmin",
    "UsageEventAdmin",
]
