"""Predictions that were charged and given back: at most once each, in part or whole."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from billing.models.ledger import Transfer


class UsageReversal(models.Model):
    """What went back of a prediction's price, and why."""

    # The usage event's id; its table has no foreign keys, in either direction.
    prediction_id = models.UUIDField(primary_key=True, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    creator = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    gross_nanos = models.BigIntegerField()
    # The creator's part of it; the rest was the platform's.
    creator_nanos = models.BigIntegerField()
    reason = models.TextField()
    # The platform's people, or the creator's.
    is_by_platform = models.BooleanField()
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    transfer = models.OneToOneField(Transfer, models.PROTECT, related_name="usage_reversal")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(gross_nanos__gt=0), name="billing_reversal_gross"),
            models.CheckConstraint(
                condition=Q(creator_nanos__gte=0, creator_nanos__lte=F("gross_nanos")),
                name="billing_reversal_creator_part",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="billing_reversal_account"),
            models.Index(fields=["creator", "-created_at"], name="billing_reversal_creator"),
        ]

    def __str__(self) -> str:
        return str(self.prediction_id)

    @property
    def platform_nanos(self) -> int:
        """The platform's part of what went back."""
        return self.gross_nanos - self.creator_nanos
