"""What was used: one event per answered prediction, and who gets which part of it.

Events are written by the thousand. Their references are checked by the function that writes
them, and kept by triggers on the tables referred to, instead of by one foreign key check per
row and column; see docs/adr/0006-usage-in-batches.md.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from billing.models.ledger import Transfer
from billing.models.price import Price
from marketplace.core.tag import TAG_LENGTH_MAX


def _refer(
    to: str | type[models.Model], related_name: str = "+", *, null: bool = False
) -> models.ForeignKey:
    return models.ForeignKey(
        to,
        models.PROTECT,
        related_name=related_name,
        null=null,
        db_constraint=False,
        db_index=False,
    )


class UsageEvent(models.Model):
    """A prediction that was answered, and its price.

    The prediction's id is the key: it can be booked once and only once.
    """

    class Mode(models.TextChoices):
        LIVE = "live", "Live"
        TEST = "test", "Test"

    prediction_id = models.UUIDField(primary_key=True, editable=False)
    account = _refer("marketplace.Account", related_name="usage_events")
    api_key_id = models.UUIDField(null=True)
    version = _refer("marketplace.ModelVersion")
    creator = _refer("marketplace.Account")
    price = _refer(Price)
    mode = models.CharField(max_length=4, choices=Mode, default=Mode.LIVE)
    units = models.PositiveIntegerField()
    gross_nanos = models.BigIntegerField()
    # Units of each kind that the price meters; None for a price of rows alone.
    metered = models.JSONField(null=True)
    # Rows of the account, the model and the month that came before, where the price counts them.
    position = models.BigIntegerField(null=True)
    # The creator's part of the gross; the rest is the platform's.
    creator_nanos = models.BigIntegerField(default=0)
    # One transfer moves what several events of a consumer and a creator cost. None where
    # nothing was charged: test keys and free models.
    transfer = _refer(Transfer, null=True, related_name="usage_events")
    occurred_at = models.DateTimeField()
    # The consumer's own word for it; empty for none. Neither receipts nor creators are told.
    tag = models.CharField(max_length=TAG_LENGTH_MAX, default="", db_default="", blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(gross_nanos__gte=0), name="billing_usage_gross"),
            models.CheckConstraint(
                condition=Q(creator_nanos__gte=0, creator_nanos__lte=F("gross_nanos")),
                name="billing_usage_creator_part",
            ),
            models.CheckConstraint(
                condition=Q(gross_nanos=0, transfer=None)
                | Q(gross_nanos__gt=0, transfer__isnull=False),
                name="billing_usage_transfer",
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-prediction_id"], name="billing_usage_account"),
            models.Index(fields=["creator", "-prediction_id"], name="billing_usage_creator"),
        ]

    def __str__(self) -> str:
        return str(self.prediction_id)

    @property
    def platform_nanos(self) -> int:
        """The platform's part of the gross."""
        return self.gross_nanos - self.creator_nanos
