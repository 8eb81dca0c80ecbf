"""Models that an editor of the platform has put together, for people who look around."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

from marketplace.models.catalog import AIModel

COLLECTION_SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?$"


class Collection(models.Model):
    """A page of picked models: a title, why they are together, and their order."""

    slug = models.CharField(
        "address",
        max_length=60,
        unique=True,
        validators=[
            RegexValidator(COLLECTION_SLUG_PATTERN, "Lowercase letters, digits and hyphens inside.")
        ],
        help_text="The last part of its address; links break when it changes.",
    )
    title = models.CharField(max_length=80)
    summary = models.CharField(max_length=280, blank=True)
    is_public = models.BooleanField("shown to everybody", default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["title", "pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(slug__regex=COLLECTION_SLUG_PATTERN),
                name="marketplace_collection_slug",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class CollectionEntry(models.Model):
    """A model's place in a collection."""

    collection = models.ForeignKey(Collection, models.CASCADE, related_name="entries")
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="+")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = "model"
        ordering = ["position", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["collection", "model"], name="marketplace_collection_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} in {self.collection}"
