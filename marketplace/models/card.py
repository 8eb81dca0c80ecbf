"""What a model's card said before: each state of it, so that two editors and a mistake can meet."""

from __future__ import annotations

from django.db import models

from marketplace.models.catalog import AIModel


class CardRevision(models.Model):
    """One state of a model's card. The newest is what the page shows; none is ever changed.

    A card belongs to the model, not to a version: editing it leaves every sealed manifest and
    its digest alone.
    """

    model = models.ForeignKey(AIModel, models.CASCADE, related_name="card_revisions")
    number = models.PositiveIntegerField()
    text = models.TextField(max_length=65536, blank=True)
    # Who wrote it, as the audit log says; empty for what stood there before it was kept.
    author = models.CharField(max_length=320, blank=True)
    # The older state that was brought back.
    restored_number = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="marketplace_card_number"),
        ]

    def __str__(self) -> str:
        return f"card {self.number} of {self.model}"
