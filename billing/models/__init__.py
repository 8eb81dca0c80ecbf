"""Tables of billing, by noun."""

from billing.models.budget import KeySpend
from billing.models.budget_alert import BudgetAlert
from billing.models.connect import ConnectAccount
from billing.models.coupon import Coupon, CouponRedemption
from billing.models.creator_terms import CreatorTerms
from billing.models.ledger import Hold, LedgerAccount, Transfer, TransferEntry
from billing.models.payout import PayoutItem, PayoutReversal, PayoutRun
from billing.models.price import Price
from billing.models.receipt import ReceiptBatch, ReceiptKey, ReceiptLeaf
from billing.models.release import CreatorReserve, Release
from billing.models.royalty import Royalty, RoyaltyShare
from billing.models.stripe_event import StripeCall, StripeEvent
from billing.models.topup import StripeCustomer, Topup
from billing.models.usage import UsageEvent
from billing.models.usage_counter import UsageCounter

__all__ = [
    "BudgetAlert",
    "ConnectAccount",
    "Coupon",
    "CouponRedemption",
    "CreatorReserve",
    "CreatorTerms",
    "Hold",
    "KeySpend",
    "LedgerAccount",
    "PayoutItem",
    "PayoutReversal",
    "PayoutRun",
    "Price",
    "ReceiptBatch",
    "ReceiptKey",
    "ReceiptLeaf",
    "Release",
    "Royalty",
    "RoyaltyShare",
    "StripeCall",
    "StripeCustomer",
    "StripeEvent",
    "Topup",
    "Transfer",
    "TransferEntry",
    "UsageCounter",
    "UsageEvent",
]
