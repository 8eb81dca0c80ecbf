"""Read coupons, and what of a wallet was given and not bought."""

from __future__ import annotations

from django.db.models import QuerySet, Sum

from billing.models import Coupon, CouponRedemption, LedgerAccount, Transfer, TransferEntry
from marketplace.models import Account, AIModel


def promo_granted_nanos(account: Account) -> int:
    """Promotional credit that an account was ever given: it can be spent, and never paid out."""
    entries = TransferEntry.objects.filter(
        ledger_account__kind=LedgerAccount.Kind.WALLET,
        ledger_account__holder=account,
        transfer__kind=Transfer.Kind.PROMO,
    )
    return int(entries.aggregate(nanos=Sum("amount_nanos"))["nanos"] or 0)


def list_coupons(model: AIModel) -> QuerySet[Coupon]:
    """Those of a model, newest first."""
    return Coupon.objects.filter(model=model).order_by("-created_at")


def list_redemptions(account: Account) -> QuerySet[CouponRedemption]:
    """What an account has used, newest first."""
    rows = CouponRedemption.objects.filter(account=account)
    return rows.select_related("coupon__model__account", "price").order_by("-redeemed_at")
