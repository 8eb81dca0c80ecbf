"""What inputs and outputs of a model looked like: counts in bins, without values and people.

A gateway adds parts and reads none. A worker joins parts until they speak of enough predictions
and accounts; only what came of that, a block, is shown. See `inference.core.drift`.
"""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id
from marketplace.models import AIModel


class DriftWatch(models.Model):
    """That the predictions of a model are counted by what they look like."""

    model = models.OneToOneField(
        AIModel, models.CASCADE, related_name="drift_watch", primary_key=True
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"drift of {self.model_id}"


class DriftPart(models.Model):
    """What one gateway counted of a version in one hour, since it last wrote it down."""

    # Chosen by the gateway: what is written again is written once.
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without foreign keys, which a gateway could not have checked.
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    hour = models.DateTimeField()
    scheme = models.PositiveSmallIntegerField()
    predictions = models.PositiveIntegerField()
    # A bit for one of 63 shares of all accounts: two accounts may have the same, so there were
    # at least as many accounts as bits.
    accounts = models.BigIntegerField()
    sketch = models.JSONField()

    class Meta:
        indexes = [
            models.Index(fields=["version_id", "hour"], name="inference_drift_part_of"),
        ]

    def __str__(self) -> str:
        return f"{self.version_id} {self.hour}"


class DriftBlock(models.Model):
    """Hours of a version that speak of enough predictions and accounts to be shown."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(db_index=True)
    scheme = models.PositiveSmallIntegerField()
    predictions = models.PositiveIntegerField()
    sketch = models.JSONField()

    class Meta:
        indexes = [
            models.Index(fields=["version_id", "ends_at"], name="inference_drift_block_of"),
            models.Index(fields=["model_id", "ends_at"], name="inference_drift_block_model"),
        ]

    def __str__(self) -> str:
        return f"{self.version_id} {self.starts_at}"


class DriftBaseline(models.Model):
    """What a version is compared with, kept for as long as it is watched."""

    class Kind(models.TextChoices):
        FIRST = "first", "Its first days"
        PINNED = "pinned", "A window that was chosen"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model_id = models.UUIDField(db_index=True)
    version_id = models.UUIDField()
    kind = models.CharField(max_length=6, choices=Kind)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    scheme = models.PositiveSmallIntegerField()
    predictions = models.PositiveIntegerField()
    sketch = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version_id", "kind"], name="inference_drift_baseline_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.version_id}"
