"""What a key with a budget has cost in each of its periods.

Written only by the SQL functions of this package, in the statement that holds or books.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class KeySpend(models.Model):
    """One key in one day, month or its whole life; days and months are UTC's."""

    class Period(models.TextChoices):
        DAY = "day", "Day"
        MONTH = "month", "Month"
        TOTAL = "total", "In all"

    id = models.BigAutoField(primary_key=True)
    api_key_id = models.UUIDField()
    period = models.CharField(max_length=5, choices=Period)
    # The first day of the period; 1970-01-01 for the whole life.
    starts_on = models.DateField()
    spent_nanos = models.BigIntegerField(default=0)
    # Reserved for predictions that run now.
    held_nanos = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["api_key_id", "period", "starts_on"], name="billing_key_spend_once"
            ),
            models.CheckConstraint(
                condition=Q(spent_nanos__gte=0, held_nanos__gte=0), name="billing_key_spend_amount"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.period} {self.starts_on}"
