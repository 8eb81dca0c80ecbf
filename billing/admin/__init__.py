"""Billing in the admin console: everything can be read, nothing edited."""

from billing.admin.budget import BudgetAlertAdmin, KeySpendAdmin
from billing.admin.coupon import CouponAdmin, CouponRedemptionAdmin
from billing.admin.creator_terms import CreatorTermsAdmin
from billing.admin.ledger import HoldAdmin, LedgerAccountAdmin, TransferAdmin
from billing.admin.price import PriceAdmin
from billing.admin.receipt import ReceiptBatchAdmin, ReceiptKeyAdmin
from billing.admin.royalty import RoyaltyAdmin, RoyaltyShareAdmin
from billing.admin.stripe import StripeCallAdmin, StripeEventAdmin, TopupAdmin
from billing.admin.usage import UsageCounterAdmin, UsageEventAdmin

__all__ = [
    "BudgetAlertAdmin",
    "CouponAdmin",
    "CouponRedemptionAdmin",
    "CreatorTermsAdmin",
    "HoldAdmin",
    "KeySpendAdmin",
    "LedgerAccountAdmin",
    "PriceAdmin",
    "ReceiptBatchAdmin",
    "ReceiptKeyAdmin",
    "RoyaltyAdmin",
    "RoyaltyShareAdmin",
    "StripeCallAdmin",
    "StripeEventAdmin",
    "TopupAdmin",
    "TransferAdmin",
    "UsageCounterAdmin",
    "UsageEventAdmin",
]
