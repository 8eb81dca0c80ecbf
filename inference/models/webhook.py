"""What happened to predictions, whom it is told, and how the telling went."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.models import Account

# Events and what became of them; what a receiver missed for longer is no news any more.
HISTORY_KEPT = timedelta(days=30)
DESCRIPTION_LENGTH_MAX = 200


class EventType(models.TextChoices):
    """What is told. A prediction's own webhook knows them by the last word, as Replicate's."""

    STARTED = "prediction.started", "Started"
    OUTPUT = "prediction.output", "Output"
    LOGS = "prediction.logs", "Logs"
    COMPLETED = "prediction.completed", "Completed"
    BATCH_COMPLETED = "batch.completed", "Batch over"
    PING = "ping", "Test"


class WebhookEvent(models.Model):
    """That something happened: written in its transaction by `inference_note_event`.

    What went in and came out stands in the prediction alone, for as long as it is kept there.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without keys to other tables: who writes it must not wait for anybody.
    account_id = models.UUIDField()
    type = models.CharField(max_length=32)
    prediction_id = models.UUIDField(null=True)
    # The prediction's own webhook, and which events it wants; none named: all.
    url = models.TextField(blank=True, default="")
    events = ArrayField(models.TextField(), default=list, blank=True)
    # What is told of what is no prediction.
    payload = models.JSONField(null=True)
    created_at = models.DateTimeField()
    # When a delivery was written for each that is to be told.
    spread_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["id"], name="inference_webhook_event_new", condition=Q(spread_at=None)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"


class SigningSecret(models.Model):
    """With what messages are signed; for a day after a change, with the one before as well."""

    # Sealed by the platform's secret, and bound to the row.
    sealed_secret = models.BinaryField(max_length=96, editable=False)
    sealed_old_secret = models.BinaryField(max_length=96, editable=False, default=b"", blank=True)
    old_secret_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True


class WebhookSecret(SigningSecret):
    """What signs the webhooks that predictions of an account name themselves."""

    account = models.OneToOneField(
        Account, models.CASCADE, primary_key=True, related_name="webhook_secret"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"of {self.account_id}"


class WebhookEndpoint(SigningSecret):
    """An address that is told of all predictions of an account."""

    class Reason(models.TextChoices):
        PERSON = "person", "Turned off by a person"
        GONE = "gone", "It answered 410: gone"
        FAILING = "failing", "It failed for three days"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="webhook_endpoints")
    url = models.CharField(max_length=500)
    description = models.CharField(max_length=DESCRIPTION_LENGTH_MAX, blank=True)
    # Which events it wants; none named: all.
    events = ArrayField(
        models.CharField(max_length=32, choices=EventType), default=list, blank=True
    )
    is_enabled = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=8, choices=Reason, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    # Since when nothing has arrived; None while all is well.
    failing_since = models.DateTimeField(null=True, blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            # What is sent twice makes one.
            models.UniqueConstraint(
                fields=["account", "url"], name="inference_webhook_endpoint_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk} of {self.account_id}"


class WebhookDelivery(models.Model):
    """One event for one endpoint, or for the address that its prediction has named."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SUCCEEDED = "succeeded", "Delivered"
        FAILED = "failed", "Failed"
        # A newer one of the same prediction went in its place.
        SKIPPED = "skipped", "Skipped"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="+", db_index=False)
    event = models.ForeignKey(
        WebhookEvent, models.CASCADE, related_name="deliveries", db_index=False
    )
    endpoint = models.ForeignKey(
        WebhookEndpoint, models.CASCADE, null=True, related_name="deliveries", db_index=False
    )
    # Of its event, to look for it.
    type = models.CharField(max_length=32, choices=EventType)
    prediction_id = models.UUIDField(null=True)
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    # All of them, and those since it was last asked for: the schedule begins anew.
    attempts = models.PositiveIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0)
    # When it was first to leave, or did: what comes after it keeps a distance.
    due_at = models.DateTimeField()
    next_at = models.DateTimeField()
    # Until then somebody is sending it, unless it was killed.
    leased_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [
            # A run that is repeated writes nothing twice.
            models.UniqueConstraint(
                fields=["event", "endpoint"],
                nulls_distinct=False,
                name="inference_webhook_delivery_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_at"],
                name="inference_webhook_delivery_due",
                condition=Q(state="waiting"),
            ),
            models.Index(fields=["account", "-id"], name="inference_webhook_delivery_of"),
            models.Index(fields=["endpoint", "-id"], name="inference_webhook_delivery_to"),
            models.Index(
                fields=["endpoint"],
                name="inference_webhook_delivery_now",
                condition=Q(state="waiting"),
            ),
            # For the distance between two.
            models.Index(
                fields=["prediction_id", "type", "-due_at"],
                name="inference_webhook_delivery_gap",
                condition=Q(type__in=["prediction.output", "prediction.logs"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"


class WebhookAttempt(models.Model):
    """One sending, and what came of it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    delivery = models.ForeignKey(WebhookDelivery, models.CASCADE, related_name="attempt_log")
    at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    # None where nothing was answered.
    status = models.PositiveSmallIntegerField(null=True)
    # Empty for well.
    error = models.CharField(max_length=200, blank=True)
    # The begin of what was answered.
    answer = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.status} {self.at}"
