"""Tables of billing, by noun."""

from billing.models.adjustment import Adjustment
from billing.models.auto_topup import AutoTopup, BalanceAlert, PaymentMail
from billing.models.budget import KeySpend
from billing.models.budget_alert import BudgetAlert
from billing.models.card import SavedCard
from billing.models.connect import ConnectAccount
from billing.models.coupon import Coupon, CouponRedemption
from billing.models.creator_terms import CreatorTerms
from billing.models.dispute import Dispute
from billing.models.fraud import (
    AccountFreeze,
    PaymentDecline,
    PayoutHold,
    ReviewCase,
    ReviewSignal,
)
from billing.models.invoice import Invoice, InvoiceNotice
from billing.models.ledger import Hold, LedgerAccount, Transfer, TransferEntry
from billing.models.meter import MeteredTransfer, MeterReport, MeterSeal
from billing.models.payout import PayoutItem, PayoutReversal, PayoutRun
from billing.models.postpaid import PostpaidTerms, TaxDetails
from billing.models.price import Price
from billing.models.receipt import ReceiptBatch, ReceiptKey, ReceiptLeaf
from billing.models.reconcile import ReconcileDifference, ReconcileRun
from billing.models.refund import TopupRefund
from billing.models.release import CreatorReserve, Release
from billing.models.reversal import UsageReversal
from billing.models.royalty import Royalty, RoyaltyShare
from billing.models.stripe_event import StripeCall, StripeEvent
from billing.models.topup import StripeCustomer, Topup
from billing.models.usage import UsageEvent
from billing.models.usage_counter import UsageCounter

__all__ = [
    "AccountFreeze",
    "Adjustment",
    "AutoTopup",
    "BalanceAlert",
    "BudgetAlert",
    "ConnectAccount",
    "Coupon",
    "CouponRedemption",
    "CreatorReserve",
    "CreatorTerms",
    "Dispute",
    "Hold",
    "Invoice",
    "InvoiceNotice",
    "KeySpend",
    "LedgerAccount",
    "MeterReport",
    "MeterSeal",
    "MeteredTransfer",
    "PaymentDecline",
    "PaymentMail",
    "PayoutHold",
    "PayoutItem",
    "PayoutReversal",
    "PayoutRun",
    "PostpaidTerms",
    "Price",
    "ReceiptBatch",
    "ReceiptKey",
    "ReceiptLeaf",
    "ReconcileDifference",
    "ReconcileRun",
    "Release",
    "ReviewCase",
    "ReviewSignal",
    "Royalty",
    "RoyaltyShare",
    "SavedCard",
    "StripeCall",
    "StripeCustomer",
    "StripeEvent",
    "TaxDetails",
    "Topup",
    "TopupRefund",
    "Transfer",
    "TransferEntry",
    "UsageCounter",
    "UsageEvent",
    "UsageReversal",
]
