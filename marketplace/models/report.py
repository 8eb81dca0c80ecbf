"""What people say is wrong with a model, and what the platform did about it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core import limits
from marketplace.core.ids import new_id
from marketplace.models.account import User
from marketplace.models.catalog import AIModel


class Takedown(models.Model):
    """A warning about a model, or its suspension, with what its owner answered to it."""

    class Kind(models.TextChoices):
        WARNING = "warning", "Warning"
        SUSPENSION = "suspension", "Suspension"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(AIModel, models.PROTECT, related_name="takedowns")
    kind = models.CharField(max_length=12, choices=Kind)
    reason = models.TextField(max_length=limits.REASON_LENGTH_MAX)
    decided_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    appeal = models.TextField(max_length=limits.REASON_LENGTH_MAX, blank=True)
    appealed_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    appealed_at = models.DateTimeField(null=True)
    # The answer to the appeal; of a suspension that is lifted without one, why it is.
    answer = models.TextField(max_length=limits.REASON_LENGTH_MAX, blank=True)
    answered_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    answered_at = models.DateTimeField(null=True)
    lifted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model"],
                condition=Q(kind="suspension", lifted_at=None),
                name="marketplace_one_suspension_of_a_model",
            ),
            models.CheckConstraint(
                condition=Q(appealed_at=None) | ~Q(appeal=""), name="marketplace_takedown_appeal"
            ),
        ]
        indexes = [
            models.Index(
                fields=["appealed_at"],
                name="marketplace_takedown_appealed",
                condition=Q(appealed_at__isnull=False, answered_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.model}"


class Report(models.Model):
    """A person's word that something is wrong with a model."""

    class Cause(models.TextChoices):
        HARM = "harm", "It does harm, or is made for it"
        RIGHTS = "rights", "It is mine, or breaks a licence"
        DECEIT = "deceit", "It is not what it says it is"
        PRIVACY = "privacy", "It gives personal data away"
        QUALITY = "quality", "It does not work"
        OTHER = "other", "Something else"

    class State(models.TextChoices):
        OPEN = "open", "Open"
        DISMISSED = "dismissed", "Dismissed"
        WARNED = "warned", "Owner warned"
        SUSPENDED = "suspended", "Model suspended"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(AIModel, models.PROTECT, related_name="reports")
    reporter = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    cause = models.CharField(max_length=8, choices=Cause)
    text = models.TextField(max_length=limits.REASON_LENGTH_MAX)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    decided_at = models.DateTimeField(null=True)
    decision_reason = models.TextField(max_length=limits.REASON_LENGTH_MAX, blank=True)
    takedown = models.ForeignKey(Takedown, models.PROTECT, null=True, related_name="reports")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state="open", decided_at=None)
                | (~Q(state="open") & Q(decided_at__isnull=False)),
                name="marketplace_report_decided",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"], name="marketplace_report_open", condition=Q(state="open")
            ),
            models.Index(fields=["reporter", "-created_at"], name="marketplace_report_by"),
        ]

    def __str__(self) -> str:
        return f"{self.get_cause_display()}: {self.model}"
