"""Billing in the admin console: everything can be read, nothing edited."""

from billing.admin.adjustment import AdjustmentAdmin, UsageReversalAdmin
from billing.admin.budget import BudgetAlertAdmin, KeySpendAdmin
from billing.admin.coupon import CouponAdmin, CouponRedemptionAdmin
from billing.admin.creator_terms import CreatorTermsAdmin
from billing.admin.ledger import HoldAdmin, LedgerAccountAdmin, TransferAdmin
from billing.admin.payout import (
    ConnectAccountAdmin,
    CreatorReserveAdmin,
    PayoutItemAdmin,
    PayoutReversalAdmin,
    PayoutRunAdmin,
    ReleaseAdmin,
)
from billing.admin.postpaid import (
    InvoiceAdmin,
    MeterReportAdmin,
    MeterSealAdmin,
    PostpaidTermsAdmin,
    TaxDetailsAdmin,
)
from billing.admin.prepaid import (
    AccountFreezeAdmin,
    AutoTopupAdmin,
    BalanceAlertAdmin,
    DisputeAdmin,
    PaymentDeclineAdmin,
    PaymentMailAdmin,
    PayoutHoldAdmin,
    ReviewCaseAdmin,
    ReviewSignalAdmin,
    SavedCardAdmin,
    TopupRefundAdmin,
)
from billing.admin.price import PriceAdmin
from billing.admin.receipt import ReceiptBatchAdmin, ReceiptKeyAdmin
from billing.admin.reconcile import ReconcileDifferenceAdmin, ReconcileRunAdmin
from billing.admin.royalty import RoyaltyAdmin, RoyaltyShareAdmin
from billing.admin.stripe import StripeCallAdmin, StripeEventAdmin, TopupAdmin
from billing.admin.usage import UsageCounterAdmin, UsageEventAdmin

__all__ = [
    "AccountFreezeAdmin",
    "AdjustmentAdmin",
    "AutoTopupAdmin",
    "BalanceAlertAdmin",
    "BudgetAlertAdmin",
    "ConnectAccountAdmin",
    "CouponAdmin",
    "CouponRedemptionAdmin",
    "CreatorReserveAdmin",
    "CreatorTermsAdmin",
    "DisputeAdmin",
    "HoldAdmin",
    "InvoiceAdmin",
    "KeySpendAdmin",
    "LedgerAccountAdmin",
    "MeterReportAdmin",
    "MeterSealAdmin",
    "PaymentDeclineAdmin",
    "PaymentMailAdmin",
    "PayoutHoldAdmin",
    "PayoutItemAdmin",
    "PayoutReversalAdmin",
    "PayoutRunAdmin",
    "PostpaidTermsAdmin",
    "PriceAdmin",
    "ReceiptBatchAdmin",
    "ReceiptKeyAdmin",
    "ReconcileDifferenceAdmin",
    "ReconcileRunAdmin",
    "ReleaseAdmin",
    "ReviewCaseAdmin",
    "ReviewSignalAdmin",
    "RoyaltyAdmin",
    "RoyaltyShareAdmin",
    "SavedCardAdmin",
    "StripeCallAdmin",
    "StripeEventAdmin",
    "TaxDetailsAdmin",
    "TopupAdmin",
    "TopupRefundAdmin",
    "TransferAdmin",
    "UsageCounterAdmin",
    "UsageEventAdmin",
    "UsageReversalAdmin",
]
