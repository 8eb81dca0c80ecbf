"""That a key has used much of a budget: told once, and remembered."""

from __future__ import annotations

from django.db import models

from billing.models.budget import KeySpend


class BudgetAlert(models.Model):
    """A key that passed a part of a budget in one day, one month or its whole life."""

    id = models.BigAutoField(primary_key=True)
    api_key = models.ForeignKey("marketplace.APIKey", models.CASCADE, related_name="+")
    period = models.CharField(max_length=5, choices=KeySpend.Period)
    starts_on = models.DateField()
    percent = models.PositiveSmallIntegerField()
    # As they were when it was noticed.
    budget_nanos = models.BigIntegerField()
    spent_nanos = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["api_key", "period", "starts_on", "percent"],
                name="billing_budget_alert_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=models.Q(mailed_at=None),
                name="billing_budget_alert_unsent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.percent} % of {self.period} {self.starts_on}"
