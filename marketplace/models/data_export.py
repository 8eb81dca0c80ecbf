"""An account's data as an archive to take along: what was asked for, and how far it is."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User


class DataExport(models.Model):
    """One archive, from the wish to the day on which it is deleted."""

    class State(models.TextChoices):
        RUNNING = "running", "Being made"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"
        EXPIRED = "expired", "Deleted"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="data_exports")
    requested_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.RUNNING)
    # Opens the archive; itself sealed by the platform's secret. Empty: nothing opens it any more.
    sealed_key = models.BinaryField(max_length=128, editable=False)
    storage_name = models.CharField(max_length=255, blank=True, editable=False)
    # Of the archive as it is downloaded.
    size_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=Q(state="running"), name="marketplace_one_export"
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="marketplace_export_account"),
            models.Index(
                fields=["expires_at"],
                name="marketplace_export_ready",
                condition=Q(state="ready"),
            ),
        ]

    def __str__(self) -> str:
        return f"data of {self.account} ({self.state})"


class DataExportStep(models.Model):
    """One file of the archive, or the archive itself. Rows exist from the start."""

    export = models.ForeignKey(DataExport, models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    # Of an exporter; the last one is `archive`.
    name = models.CharField(max_length=40)
    attempts = models.PositiveSmallIntegerField(default=0)
    rows = models.BigIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    storage_name = models.CharField(max_length=255, blank=True, editable=False)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["export", "position"]
        constraints = [
            models.UniqueConstraint(fields=["export", "name"], name="marketplace_export_step_once"),
        ]

    def __str__(self) -> str:
        return f"{self.export_id} {self.name}"
