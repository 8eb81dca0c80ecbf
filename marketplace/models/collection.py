"""Models that somebody has put together: an editor of the platform, or an account."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

from marketplace.models.account import Account
from marketplace.models.catalog import AIModel

COLLECTION_SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?$"


class Collection(models.Model):
    """A page of picked models: a title, why they are together, and their order.

    Those of the platform's editors belong to no account, and stand at `/collections/{slug}`; an
    account's own at `/collections/{owner}/{slug}`.
    """

    account = models.ForeignKey(
        Account, models.CASCADE, null=True, blank=True, related_name="collections"
    )
    slug = models.CharField(
        "address",
        max_length=60,
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
            models.UniqueConstraint(
                fields=["slug"],
                condition=models.Q(account=None),
                name="marketplace_editors_collection",
            ),
            models.UniqueConstraint(fields=["account", "slug"], name="marketplace_own_collection"),
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
