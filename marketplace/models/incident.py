"""What the platform tells everybody about trouble, and about work that it plans.

Nothing that was published is changed: an incident's head stays as it was opened, and each
update is a row of its own that a trigger keeps. Only where it stands now moves along.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models.account import User
from marketplace.models.catalog import AIModel
from marketplace.models.status import Part


class Incident(models.Model):
    """Trouble, or planned maintenance: what it is about, and where it stands."""

    class Impact(models.TextChoices):
        NONE = "none", "No impact"
        MINOR = "minor", "Minor"
        MAJOR = "major", "Major"
        CRITICAL = "critical", "Critical"
        MAINTENANCE = "maintenance", "Maintenance"

    class State(models.TextChoices):
        INVESTIGATING = "investigating", "Investigating"
        IDENTIFIED = "identified", "Identified"
        MONITORING = "monitoring", "Monitoring"
        # Of maintenance alone.
        PLANNED = "planned", "Planned"
        UNDER_WAY = "under_way", "Under way"
        RESOLVED = "resolved", "Resolved"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    title = models.CharField(max_length=limits.INCIDENT_TITLE_LENGTH_MAX)
    impact = models.CharField(max_length=12, choices=Impact)
    parts = ArrayField(models.CharField(max_length=12, choices=Part), default=list, blank=True)
    named_models = models.ManyToManyField(AIModel, related_name="incidents", blank=True)
    # Of maintenance alone: its window.
    planned_from = models.DateTimeField(null=True, blank=True)
    planned_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    # Of the last update.
    state = models.CharField(max_length=16, choices=State)
    updates_count = models.PositiveSmallIntegerField(default=1)
    updated_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    # Without the second and third, nothing would be neither true nor false.
                    Q(
                        impact="maintenance",
                        planned_from__lt=F("planned_until"),
                        planned_from__isnull=False,
                        planned_until__isnull=False,
                    )
                    | Q(~Q(impact="maintenance"), planned_from=None, planned_until=None)
                ),
                name="marketplace_incident_window",
            ),
            models.CheckConstraint(
                condition=Q(
                    Q(state="resolved", resolved_at__isnull=False)
                    | Q(~Q(state="resolved"), resolved_at=None)
                ),
                name="marketplace_incident_resolved",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=Q(resolved_at=None),
                name="marketplace_incident_open",
            ),
            models.Index(fields=["-created_at"], name="marketplace_incident_latest"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def is_maintenance(self) -> bool:
        """Whether it was planned."""
        return self.impact == self.Impact.MAINTENANCE

    @property
    def is_over_due(self) -> bool:
        """Maintenance whose window is over, and nobody has said that it is done."""
        end = self.planned_until
        return self.resolved_at is None and end is not None and end < utc_now()

    @property
    def part_labels(self) -> list[str]:
        """The parts in words, in the page's order."""
        return [part.label for part in Part if part.value in self.parts]


class IncidentUpdate(models.Model):
    """What was said of an incident at one moment. Its author is for admins alone."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    incident = models.ForeignKey(Incident, models.PROTECT, related_name="updates")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=16, choices=Incident.State)
    text = models.TextField(max_length=limits.INCIDENT_TEXT_LENGTH_MAX)
    author = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["incident", "-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["incident", "number"], name="marketplace_incident_update_number"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.incident_id} {self.number}: {self.state}"
