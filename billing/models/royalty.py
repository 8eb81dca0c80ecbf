"""What a version owes to those it was made from: a part of its creator's share.

The terms of a royalty never change; it ends, and another may begin. What a prediction gave
is a row of its own, so that creator and beneficiary can count the same.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.ledger import LedgerAccount
from marketplace.core.ids import new_id


class Royalty(models.Model):
    """The owner of `parent` gets `bps` of what the creator of `version` earns with it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version = models.ForeignKey(
        "marketplace.ModelVersion", models.PROTECT, related_name="royalties"
    )
    parent = models.ForeignKey("marketplace.ModelVersion", models.PROTECT, related_name="+")
    # Who owned the parent when the royalty began, and where it is credited.
    beneficiary = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="royalties")
    reserve = models.ForeignKey(LedgerAccount, models.PROTECT, related_name="+")
    bps = models.PositiveSmallIntegerField()
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(bps__gte=1, bps__lte=10_000), name="billing_royalty_bps"
            ),
            models.CheckConstraint(
                condition=~Q(version=models.F("parent")), name="billing_royalty_of_another"
            ),
            models.UniqueConstraint(
                fields=["version", "parent"],
                condition=Q(ended_at=None),
                name="billing_royalty_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.bps} bps of {self.version} to {self.beneficiary}"


class RoyaltyShare(models.Model):
    """What one prediction gave by one royalty; written where the prediction is booked."""

    id = models.BigAutoField(primary_key=True)
    prediction_id = models.UUIDField(editable=False)
    royalty = models.ForeignKey(Royalty, models.PROTECT, related_name="shares")
    amount_nanos = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["prediction_id", "royalty"], name="billing_royalty_share_once"
            ),
            models.CheckConstraint(
                condition=Q(amount_nanos__gt=0), name="billing_royalty_share_amount"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_nanos} of {self.prediction_id}"
