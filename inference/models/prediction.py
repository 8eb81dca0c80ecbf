"""Predictions: one row per run that was answered, and the keys that make a retry safe."""

from __future__ import annotations

from datetime import timedelta

from django.db import models

# The gateway answers a repeated key for this long; then the key is free again, and what the
# prediction gave is forgotten.
RETENTION = timedelta(hours=24)


class Prediction(models.Model):
    """One run. Written in the transaction that books it, before its answer leaves."""

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        LEASED = "leased", "Leased"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELED = "canceled", "Canceled"

    class Source(models.TextChoices):
        API = "api", "API"
        WEB = "web", "Web"

    id = models.UUIDField(primary_key=True, editable=False)
    account_id = models.UUIDField()
    api_key_id = models.UUIDField(null=True)
    # Without a check per row: who writes it has just served it, and a version that was used
    # cannot be deleted (see ../sql/predictions.sql).
    version = models.ForeignKey(
        "marketplace.ModelVersion",
        models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    state = models.CharField(max_length=16, choices=State)
    source = models.CharField(max_length=8, choices=Source, default=Source.API)
    protocol = models.CharField(max_length=16, default="native")
    rows = models.PositiveIntegerField(default=1)
    cost_nanos = models.BigIntegerField(default=0)
    # Kept only where a retry must be able to see it; else the answer leaves and is gone.
    input = models.JSONField(null=True)
    output = models.JSONField(null=True)
    error = models.TextField(blank=True, default="")
    predict_time_us = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["account_id", "-id"], name="inference_prediction_account"),
            models.Index(fields=["version", "-id"], name="inference_prediction_version"),
            # What is to be forgotten; few rows keep their content.
            models.Index(
                fields=["created_at"],
                name="inference_prediction_kept",
                condition=models.Q(output__isnull=False) | models.Q(input__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class APIRequest(models.Model):
    """An Idempotency-Key of an account: which request it was, and which prediction it got."""

    account_id = models.UUIDField()
    idempotency_key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)
    prediction_id = models.UUIDField()
    created_at = models.DateTimeField()
    # Until then the first request is taken to be still running.
    claimed_until = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "idempotency_key"], name="inference_api_request_once"
            ),
        ]
        indexes = [
            models.Index(fields=["created_at"], name="inference_api_request_age"),
            # For retries without a key, which only their content tells.
            models.Index(fields=["account_id", "fingerprint"], name="inference_api_request_same"),
        ]

    def __str__(self) -> str:
        return self.idempotency_key
