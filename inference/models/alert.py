"""Rules that watch a model, where they tell of it, and what happened."""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id
from marketplace.models import AIModel, User


class AlertChannel(models.Model):
    """Where the alerts of a model go."""

    class Kind(models.TextChoices):
        MAIL = "mail", "Mail"
        WEBHOOK = "webhook", "Webhook"
        SLACK = "slack", "Slack-compatible webhook"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="alert_channels")
    kind = models.CharField(max_length=8, choices=Kind)
    # The address of a person in the account, or of a server.
    target = models.CharField(max_length=500)
    created_at = models.DateTimeField(auto_now_add=True)
    # How the last delivery ended: empty for well.
    last_error = models.CharField(max_length=200, blank=True)
    last_sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model", "kind", "target"], name="inference_alert_channel_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.model_id}"


class AlertRule(models.Model):
    """When somebody wants to be told."""

    class Kind(models.TextChoices):
        ERROR_RATE = "error_rate", "Error rate"
        P95 = "p95", "p95 latency"
        NO_TRAFFIC = "no_traffic", "No traffic"
        REVENUE_DROP = "revenue_drop", "Revenue drop"
        REPLICA_LOST = "replica_lost", "Replica lost"
        BUDGET_BURN = "budget_burn", "Error budget burn"
        DRIFT = "drift", "Drift"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="alert_rules")
    kind = models.CharField(max_length=16, choices=Kind)
    # In the unit of the kind: basis points, milliseconds, replicas, hundredths of a burn rate
    # or of a stability index.
    threshold = models.PositiveIntegerField(default=0)
    window_s = models.PositiveIntegerField()
    # Fewer requests than this in the window say nothing.
    count_min = models.PositiveIntegerField(default=1)
    cool_down_s = models.PositiveIntegerField(default=900)
    snoozed_until = models.DateTimeField(null=True, blank=True)
    evaluated_at = models.DateTimeField(null=True, blank=True)
    # What was measured then, in the threshold's unit; None where nothing could be said.
    measured = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model", "kind", "window_s", "threshold"], name="inference_alert_rule_once"
            ),
        ]
        indexes = [models.Index(fields=["evaluated_at"], name="inference_alert_rule_due")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.model_id}"


class AlertEvent(models.Model):
    """That a rule was broken, from when to when."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    rule = models.ForeignKey(AlertRule, models.CASCADE, related_name="events")
    fired_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)
    measured = models.BigIntegerField()
    # When it was told of; None while the rule is snoozed, or cools down.
    notified_at = models.DateTimeField(null=True, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.ForeignKey(
        User, models.SET_NULL, null=True, blank=True, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule"],
                condition=models.Q(resolved_at=None),
                name="inference_alert_event_open",
            ),
        ]
        indexes = [models.Index(fields=["rule", "-fired_at"], name="inference_alert_event_of")]

    def __str__(self) -> str:
        return f"{self.rule_id} {self.fired_at}"


class AlertDelivery(models.Model):
    """A message that is to leave: written with what it tells of, sent afterwards."""

    class What(models.TextChoices):
        FIRING = "firing", "Firing"
        RESOLVED = "resolved", "Resolved"
        TEST = "test", "Test"

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENT = "sent", "Sent"
        FAILED = "failed", "Failed"
        HELD_BACK = "held_back", "Held back"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    channel = models.ForeignKey(AlertChannel, models.CASCADE, related_name="deliveries")
    event = models.ForeignKey(
        AlertEvent, models.CASCADE, null=True, blank=True, related_name="deliveries"
    )
    what = models.CharField(max_length=8, choices=What)
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # A run that is repeated tells nothing twice.
            models.UniqueConstraint(
                fields=["channel", "event", "what"],
                condition=models.Q(event__isnull=False),
                name="inference_alert_delivery_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_at"],
                condition=models.Q(state="waiting"),
                name="inference_alert_delivery_due",
            ),
            models.Index(fields=["created_at"], name="inference_alert_delivery_age"),
        ]

    def __str__(self) -> str:
        return f"{self.what} to {self.channel_id}"
