"""The recorded steps that a version takes from upload to sale."""

from __future__ import annotations

from django.db import models


class OnboardingStep(models.Model):
    """One step of one version. Rows exist from the start, so that all steps can be shown."""

    class Name(models.TextChoices):
        VERIFY = "verify", "Verify"
        VALIDATE = "validate", "Validate"
        LOAD = "load", "Load"
        TEST = "test", "Test"
        BENCHMARK = "benchmark", "Benchmark"
        REVIEW = "review", "Review"
        PUBLISH = "publish", "Publish"

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"

    version = models.ForeignKey(
        "marketplace.ModelVersion", models.CASCADE, related_name="onboarding_steps"
    )
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=16, choices=Name)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    attempt = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    log = models.TextField(blank=True)
    reason_code = models.CharField(max_length=64, blank=True)
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["version", "position"]
        constraints = [
            models.UniqueConstraint(fields=["version", "name"], name="inference_step_once"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.state}"
