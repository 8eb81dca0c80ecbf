"""How the parts of the platform were, minute by minute, added up by day."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Part(models.TextChoices):
    """What the status page tells of, in its order."""

    SITE = "site", "Website"
    GATEWAY = "gateway", "Prediction API"
    SERVING = "serving", "Serving nodes"
    ONBOARDING = "onboarding", "Onboarding of versions"
    BILLING = "billing", "Billing and receipts"


class StatusDay(models.Model):
    """One part on one day: how many minutes it was found in each state.

    A minute that nobody looked at is in none of them. Written by workers alone
    (`marketplace.services.status`).
    """

    class State(models.TextChoices):
        UP = "up", "Up"
        DEGRADED = "degraded", "Degraded"
        DOWN = "down", "Down"
        UNKNOWN = "unknown", "Not measured"

    id = models.BigAutoField(primary_key=True)
    part = models.CharField(max_length=12, choices=Part)
    day = models.DateField()
    up = models.PositiveSmallIntegerField(default=0)
    degraded = models.PositiveSmallIntegerField(default=0)
    down = models.PositiveSmallIntegerField(default=0)
    unknown = models.PositiveSmallIntegerField(default=0)
    # The last minute that was counted, and what was found in it.
    sampled_at = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["part", "day"], name="marketplace_status_day_once"),
            # A day has no more minutes.
            models.CheckConstraint(
                condition=Q(
                    up__lte=1440 - models.F("degraded") - models.F("down") - models.F("unknown")
                ),
                name="marketplace_status_day_minutes",
            ),
        ]
        indexes = [models.Index(fields=["day"], name="marketplace_status_day_age")]

    def __str__(self) -> str:
        return f"{self.part} {self.day}"
