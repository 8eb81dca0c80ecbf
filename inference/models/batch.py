"""Batches: many predictions of one model, read from a file and run when there is room.

A line is put into the queue and noted as such in one transaction (../sql/batches.sql), so that
whoever dies in between leaves it either waiting or queued.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import Q

from inference.core.batch_lines import CUSTOM_ID_LENGTH_MAX
from marketplace.core.ids import new_id
from marketplace.models import Account

# How long lines and results are kept once a batch is over, if nobody deletes it before.
RESULTS_KEPT = timedelta(days=7)


class Batch(models.Model):
    """A file of inputs that one version is run on."""

    class State(models.TextChoices):
        READING = "reading", "Reading"
        RUNNING = "running", "Running"
        # Nothing of it is put into the queue until the cause is gone.
        PAUSED = "paused", "Paused"
        CANCELING = "canceling", "Canceling"
        # Its time is over; what runs comes to its end.
        EXPIRING = "expiring", "Expiring"
        COMPLETED = "completed", "Completed"
        CANCELED = "canceled", "Canceled"
        EXPIRED = "expired", "Expired"
        # Nothing of its file could be used.
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="batches", db_index=False)
    # Whose budget and limits hold; None for those of the account alone.
    api_key_id = models.UUIDField(null=True, blank=True)
    version = models.ForeignKey("marketplace.ModelVersion", models.PROTECT, related_name="+")
    # Of the request that began it: the same one again begins nothing.
    idempotency_key = models.CharField(max_length=255, blank=True, default="")
    tag = models.CharField(max_length=64, blank=True, default="")
    name = models.CharField(max_length=200, blank=True, default="")
    webhook_url = models.TextField(blank=True, default="")
    # Any of them may be deleted before the batch is.
    input_file = models.ForeignKey(
        "inference.File", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    output_file = models.ForeignKey(
        "inference.File", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    error_file = models.ForeignKey(
        "inference.File", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    state = models.CharField(max_length=9, choices=State, default=State.READING)
    # Why it is paused, waits for room, or has failed: a code, and words.
    reason = models.CharField(max_length=64, blank=True, default="")
    detail = models.TextField(blank=True, default="")
    # The last line of its file that was read; counts of what is over when all of it is.
    read_number = models.PositiveIntegerField(default=0)
    total_count = models.PositiveIntegerField(default=0)
    succeeded_count = models.PositiveIntegerField(default=0)
    failed_count = models.PositiveIntegerField(default=0)
    canceled_count = models.PositiveIntegerField(default=0)
    cost_nanos = models.BigIntegerField(default=0)
    # When lines of it are put into the queue next; whoever does that now has moved it on.
    next_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    # The `paused_at` that its account was told of: each pause is told once.
    pause_told_at = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    # When its lines and results go.
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "batches"
        constraints = [
            models.UniqueConstraint(
                fields=["account", "idempotency_key"],
                name="inference_batch_once",
                condition=~Q(idempotency_key=""),
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="inference_batch_account"),
            models.Index(
                fields=["next_at"],
                name="inference_batch_next",
                condition=Q(state__in=["running", "paused"]),
            ),
            models.Index(
                fields=["id"],
                name="inference_batch_open",
                condition=Q(finished_at__isnull=True),
            ),
            models.Index(
                fields=["expires_at"],
                name="inference_batch_expiry",
                condition=Q(expires_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.finished_at is not None


class BatchLine(models.Model):
    """One line of a batch, and what became of it."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        # It is a job, or was and has not been looked at since.
        QUEUED = "queued", "Queued"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELED = "canceled", "Canceled"

    batch = models.ForeignKey(Batch, models.CASCADE, related_name="lines", db_index=False)
    # In the file, from 1.
    number = models.PositiveIntegerField()
    custom_id = models.CharField(max_length=CUSTOM_ID_LENGTH_MAX, blank=True, default="")
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    prediction_id = models.UUIDField(null=True)
    # Until it is queued: from then on the job has it.
    input = models.JSONField(null=True)
    # Until all are over: from then on it stands in the file of outputs.
    output = models.JSONField(null=True)
    code = models.CharField(max_length=64, blank=True, default="")
    detail = models.TextField(blank=True, default="")
    cost_nanos = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["batch", "number"], name="inference_batchline_once"),
            # A prediction belongs to one line.
            models.UniqueConstraint(
                fields=["prediction_id"],
                name="inference_batchline_prediction",
                condition=Q(prediction_id__isnull=False),
            ),
            models.CheckConstraint(
                condition=~Q(state="queued") | Q(prediction_id__isnull=False),
                name="inference_batchline_queued",
            ),
        ]
        indexes = [
            models.Index(fields=["batch", "state", "number"], name="inference_batchline_state"),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id} {self.number}"
