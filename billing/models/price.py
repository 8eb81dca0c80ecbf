"""What a prediction costs: immutable rows, one valid at a time per model.

A row that names an account is a private offer to it, valid beside the price of everybody.
"""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value

from marketplace.core.ids import new_id
from strongroom.rating import Terms


class ValidRange(Func):
    """The time in which a price holds, its end not included."""

    function = "tstzrange"
    output_field = models.Field()


def _empty(value: object) -> Value:
    return Value(value, output_field=models.JSONField())


class Price(models.Model):
    """The price of a model from one moment to the next; a prediction pins the row it met."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey("marketplace.AIModel", models.PROTECT, related_name="prices")
    # None: for everybody.
    account = models.ForeignKey(
        "marketplace.Account", models.PROTECT, null=True, blank=True, related_name="price_offers"
    )
    nanos_per_prediction = models.BigIntegerField()
    # Nano-dollars for a million units of each kind that is metered.
    rates = models.JSONField(default=dict, blank=True, db_default=_empty({}))
    # The most of a kind that one row is charged for.
    max_units = models.JSONField(default=dict, blank=True, db_default=_empty({}))
    minimum_nanos = models.BigIntegerField(default=0, db_default=0)
    # Rows of an account in a month that cost nothing.
    free_units = models.BigIntegerField(default=0, db_default=0)
    # [[from which row of the month on, basis points of the price], ...]
    tiers = models.JSONField(default=list, blank=True, db_default=_empty([]))
    is_plain = models.GeneratedField(
        expression=Q(  # type: ignore[arg-type]
            rates=_empty({}), minimum_nanos=Value(0), free_units=Value(0), tiers=_empty([])
        ),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    # What part of it lines of batches cost; see ../sql/batch_prices.sql.
    batch_percent = models.PositiveSmallIntegerField(default=100, db_default=100)
    # The price of which this is what lines of batches cost.
    batch_of = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, related_name="batch_price"
    )
    creator_share_bps = models.PositiveSmallIntegerField()
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    # When those who used the model were told of a price that begins later.
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(nanos_per_prediction__gte=0, minimum_nanos__gte=0, free_units__gte=0),
                name="billing_price_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(batch_percent__range=(1, 100)), name="billing_price_batch_percent"
            ),
            models.CheckConstraint(
                condition=Q(creator_share_bps__lte=10_000), name="billing_price_share"
            ),
            ExclusionConstraint(
                name="billing_price_no_overlap",
                expressions=[
                    (F("model"), RangeOperators.EQUAL),
                    (ValidRange(F("valid_from"), F("valid_until")), RangeOperators.OVERLAPS),
                ],
                condition=Q(account=None),
            ),
            ExclusionConstraint(
                name="billing_offer_no_overlap",
                expressions=[
                    (F("model"), RangeOperators.EQUAL),
                    (F("account"), RangeOperators.EQUAL),
                    (ValidRange(F("valid_from"), F("valid_until")), RangeOperators.OVERLAPS),
                ],
                condition=Q(account__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.nanos_per_prediction} nanos"

    @property
    def terms(self) -> Terms:
        """What is rated by it."""
        return Terms(
            self.nanos_per_prediction, self.rates, self.minimum_nanos, self.free_units, self.tiers
        )
