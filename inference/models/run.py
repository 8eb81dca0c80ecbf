"""Runs that a person chose to show: input and output of one prediction, kept for a while."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id

# Input and output together, as JSON. What is larger is no page that one reads.
RUN_BYTES_MAX = 64 * 1024


class SharedRun(models.Model):
    """One run under an address that nobody can guess. To revoke it is to delete the row."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The last part of its address: 144 random bits.
    token = models.CharField(max_length=24, unique=True)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="shared_runs")
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    version = models.ForeignKey("marketplace.ModelVersion", models.PROTECT, related_name="+")
    prediction_id = models.UUIDField()
    input = models.JSONField()
    output = models.JSONField()
    size_bytes = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(size_bytes__lte=RUN_BYTES_MAX), name="inference_shared_run_size"
            ),
            models.UniqueConstraint(
                fields=["account", "prediction_id"], name="inference_shared_run_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} {self.token}"
