"""How many rows of a model an account was charged in a month, where the price counts them."""

from __future__ import annotations

from django.db import models


class UsageCounter(models.Model):
    """Written by `billing_settle` only, together with the events that it counts.

    Free quotas and volume tiers are read from it under its lock; each event keeps the
    number that it met (`UsageEvent.position`), so that the charge can be computed again.
    """

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    model = models.ForeignKey("marketplace.AIModel", models.PROTECT, related_name="+")
    # The first day of the month, UTC.
    starts_on = models.DateField()
    units = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "model", "starts_on"], name="billing_usage_counter_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.units} of {self.account_id} in {self.starts_on:%Y-%m}"
