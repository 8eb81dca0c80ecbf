"""Codes that give credit, or a lower price of one model."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.ledger import Transfer
from billing.models.price import Price
from marketplace.core.ids import new_id


class Coupon(models.Model):
    """A code: promotional credit of the platform, or a part off a creator's own price."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # As it is typed, in capitals.
    code = models.CharField(max_length=32, unique=True)
    # Either credit, from the platform …
    credit_nanos = models.BigIntegerField(null=True, blank=True)
    # … or basis points off the price of a model, for so many days, from its creator.
    off_bps = models.PositiveSmallIntegerField(null=True, blank=True)
    model = models.ForeignKey(
        "marketplace.AIModel", models.PROTECT, null=True, blank=True, related_name="coupons"
    )
    days = models.PositiveSmallIntegerField(null=True, blank=True)
    uses_max = models.PositiveIntegerField()
    # Redemptions so far; changed under the row's lock.
    uses = models.PositiveIntegerField(default=0)
    valid_until = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    credit_nanos__gt=0, off_bps__isnull=True, model__isnull=True, days__isnull=True
                )
                | Q(
                    credit_nanos__isnull=True,
                    off_bps__gt=0,
                    off_bps__lt=10_000,
                    model__isnull=False,
                    days__gt=0,
                ),
                name="billing_coupon_kind",
            ),
            # The last line against one redemption too many, whatever the code does.
            models.CheckConstraint(
                condition=Q(uses__lte=models.F("uses_max")), name="billing_coupon_uses"
            ),
        ]

    def __str__(self) -> str:
        return self.code


class CouponRedemption(models.Model):
    """An account used a coupon, once."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    coupon = models.ForeignKey(Coupon, models.PROTECT, related_name="redemptions")
    account = models.ForeignKey(
        "marketplace.Account", models.PROTECT, related_name="coupon_redemptions"
    )
    # What it gave.
    transfer = models.OneToOneField(Transfer, models.PROTECT, null=True, related_name="+")
    price = models.OneToOneField(Price, models.PROTECT, null=True, related_name="+")
    redeemed_by = models.CharField(max_length=200)
    redeemed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["coupon", "account"], name="billing_coupon_once_per_account"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.coupon} by {self.account}"
