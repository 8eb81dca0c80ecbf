"""What the platform tells people on top of every page, for a while."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core import limits
from marketplace.core.ids import new_id
from marketplace.models.account import User


class Announcement(models.Model):
    """A line of plain text with at most one link, for some people, between two moments."""

    class Audience(models.TextChoices):
        EVERYBODY = "everybody", "Everybody"
        SIGNED_IN = "signed_in", "Who is signed in"
        CREATORS = "creators", "Who has a model"
        STAFF = "staff", "Platform admins"

    class Tone(models.TextChoices):
        INFO = "info", "News"
        WARN = "warn", "Warning"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    text = models.CharField(max_length=limits.ANNOUNCEMENT_LENGTH_MAX)
    link = models.CharField(max_length=limits.LINK_LENGTH_MAX, blank=True)
    link_text = models.CharField(max_length=60, blank=True)
    audience = models.CharField(max_length=12, choices=Audience, default=Audience.EVERYBODY)
    tone = models.CharField(max_length=8, choices=Tone, default=Tone.INFO)
    is_dismissible = models.BooleanField("people may put it away", default=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(db_index=True)
    # When it was put into inboxes; None before it begins.
    told_at = models.DateTimeField(null=True, editable=False)
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(starts_at__lt=F("ends_at")), name="marketplace_announcement_period"
            ),
            models.CheckConstraint(
                condition=Q(link="", link_text="") | (~Q(link="") & ~Q(link_text="")),
                name="marketplace_announcement_link",
            ),
        ]

    def __str__(self) -> str:
        return self.text
