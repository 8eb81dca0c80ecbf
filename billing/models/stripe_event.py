"""The two sides of the border to Stripe: what it told us, and what we asked of it."""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id


class StripeEvent(models.Model):
    """Inbox: a verified webhook, stored before it is answered and applied after."""

    class State(models.TextChoices):
        RECEIVED = "received", "Received"
        APPLIED = "applied", "Applied"
        IGNORED = "ignored", "Ignored"
        FAILED = "failed", "Failed"

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=120)
    object_id = models.CharField(max_length=255, blank=True)
    payload = models.JSONField()
    state = models.CharField(max_length=16, choices=State, default=State.RECEIVED)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField()
    received_at = models.DateTimeField(auto_now_add=True)
    applied_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["received_at"],
                name="billing_stripe_event_open",
                condition=models.Q(state__in=["received", "failed"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class StripeCall(models.Model):
    """Outbox: a call that may move money, written before the call is made."""

    class State(models.TextChoices):
        SENT = "sent", "Sent"
        OK = "ok", "Ok"
        REJECTED = "rejected", "Rejected"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    idempotency_key = models.CharField(max_length=255, unique=True)
    endpoint = models.CharField(max_length=120)
    params_sha256 = models.CharField(max_length=64)
    state = models.CharField(max_length=16, choices=State, default=State.SENT)
    response_id = models.CharField(max_length=255, blank=True)
    error = models.TextField(blank=True)
    first_sent_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.endpoint} {self.state}"
