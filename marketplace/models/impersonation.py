"""When a platform admin looked at the site as somebody else, and why."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core import limits
from marketplace.core.ids import new_id
from marketplace.models.account import User


class Impersonation(models.Model):
    """A while in which an admin sees what a person sees, and can change nothing."""

    class End(models.TextChoices):
        STOPPED = "stopped", "Stopped"
        TIME = "time", "Time was up"
        NOT_ALLOWED = "not_allowed", "Not allowed any more"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    admin = models.ForeignKey(User, models.CASCADE, related_name="+")
    person = models.ForeignKey(User, models.CASCADE, related_name="+")
    reason = models.TextField(max_length=limits.REASON_LENGTH_MAX)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end = models.CharField(max_length=12, choices=End, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["admin"],
                condition=Q(ended_at=None),
                name="marketplace_one_impersonation_at_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(admin=F("person")), name="marketplace_impersonation_of_another"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.admin} as {self.person}"
