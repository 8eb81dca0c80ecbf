"""What a prediction costs: immutable rows, one valid at a time per model."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.db import models
from django.db.models import F, Func, Q

from marketplace.core.ids import new_id


class ValidRange(Func):
    """The time in which a price holds, its end not included."""

    function = "tstzrange"
    output_field = models.Field()


class Price(models.Model):
    """The price of a model from one moment to the next; a prediction pins the row it met."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey("marketplace.AIModel", models.PROTECT, related_name="prices")
    nanos_per_prediction = models.BigIntegerField()
    creator_share_bps = models.PositiveSmallIntegerField()
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(nanos_per_prediction__gte=0), name="billing_price_not_negative"
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
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.nanos_per_prediction} nanos"
