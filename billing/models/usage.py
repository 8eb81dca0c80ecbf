"""What was used: one event per charged prediction, and who gets which part of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.ledger import LedgerAccount, Transfer
from billing.models.price import Price


class UsageEvent(models.Model):
    """A prediction that was answered, and its price.

    The prediction's id is the key: it can be booked once and only once.
    """

    class Mode(models.TextChoices):
        LIVE = "live", "Live"
        TEST = "test", "Test"

    prediction_id = models.UUIDField(primary_key=True, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="usage_events")
    api_key_id = models.UUIDField(null=True)
    version = models.ForeignKey("marketplace.ModelVersion", models.PROTECT, related_name="+")
    creator = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    price = models.ForeignKey(Price, models.PROTECT, related_name="+")
    mode = models.CharField(max_length=4, choices=Mode, default=Mode.LIVE)
    units = models.PositiveIntegerField()
    gross_nanos = models.BigIntegerField()
    # None where nothing was charged: test keys and free models.
    transfer = models.OneToOneField(Transfer, models.PROTECT, null=True, related_name="usage_event")
    occurred_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(gross_nanos__gte=0), name="billing_usage_gross"),
        ]
        indexes = [
            models.Index(fields=["account", "-prediction_id"], name="billing_usage_account"),
            models.Index(fields=["creator", "-prediction_id"], name="billing_usage_creator"),
            models.Index(fields=["version", "-prediction_id"], name="billing_usage_version"),
        ]

    def __str__(self) -> str:
        return str(self.prediction_id)


class UsageShare(models.Model):
    """One party's part of a usage event; the parts of an event add up to its gross."""

    class Role(models.TextChoices):
        CREATOR = "creator", "Creator"
        PARENT = "parent", "Parent model's owner"
        PLATFORM = "platform", "Platform"

    id = models.BigAutoField(primary_key=True)
    usage_event = models.ForeignKey(UsageEvent, models.PROTECT, related_name="shares")
    role = models.CharField(max_length=8, choices=Role)
    ledger_account = models.ForeignKey(LedgerAccount, models.PROTECT, related_name="+")
    amount_nanos = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["usage_event", "role", "ledger_account"], name="billing_share_once"
            ),
            models.CheckConstraint(condition=Q(amount_nanos__gte=0), name="billing_share_amount"),
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.amount_nanos}"
