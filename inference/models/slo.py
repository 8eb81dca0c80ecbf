"""What a creator promises of a model."""

from __future__ import annotations

from django.db import models

from marketplace.models import AIModel


class SLO(models.Model):
    """Targets of one model over a sliding window of days."""

    model = models.OneToOneField(AIModel, models.CASCADE, related_name="+", primary_key=True)
    # Of a hundred thousand requests: 99950 is 99.95 %.
    availability_target = models.PositiveIntegerField()
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    # Of a hundred thousand successes, how many must not take longer.
    latency_target = models.PositiveIntegerField(default=95_000)
    window_days = models.PositiveSmallIntegerField(default=28)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "SLO"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    availability_target__range=(50_000, 99_999),
                    latency_target__range=(50_000, 99_999),
                    window_days__range=(1, 90),
                ),
                name="inference_slo_range",
            ),
        ]

    def __str__(self) -> str:
        return f"SLO of {self.model_id}"
