"""What the catalogue knows of each model besides its listing: what it is found by, and facts.

Derived, never edited: triggers keep words and measurements in step with the rows that they
come from (`marketplace/sql/catalogue.sql`); a task adds what the listing means, and billing
tells prices and use. A row that is lost is made again.
"""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.search import SearchVectorField
from django.db import models

from marketplace.core.limits import EMBEDDING_LENGTH
from marketplace.models.catalog import AIModel


class EmbeddingField(models.Field):
    """Numbers that say what a text means: a `vector` of pgvector."""

    description = "vector of 32-bit floats"

    def db_type(self, connection: Any) -> str:
        return f"vector({EMBEDDING_LENGTH})"

    def from_db_value(self, value: str | None, *_: Any) -> list[float] | None:
        return None if value is None else [float(one) for one in value[1:-1].split(",")]

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return None if value is None else to_vector(value)


def to_vector(numbers: list[float]) -> str:
    """A vector as Postgres reads it."""
    return f"[{','.join(map(repr, numbers))}]"


class CatalogueEntry(models.Model):
    """One model as the catalogue sees it."""

    model = models.OneToOneField(AIModel, models.CASCADE, primary_key=True, related_name="entry")
    # Weighted words of the listing; and name, title and owner for names that are mistyped.
    words = SearchVectorField()
    label = models.CharField(max_length=320)
    # When `prod` last moved; None: not on sale.
    published_at = models.DateTimeField(null=True, blank=True)

    # What the listing means; of which listing, and which model said so.
    listing_sha256 = models.CharField(max_length=64)
    embedding = EmbeddingField(null=True, blank=True)
    embedded_sha256 = models.CharField(max_length=64, blank=True, db_default="")
    embedded_by = models.CharField(max_length=120, blank=True, db_default="")

    # Of the published version's certificate: one row at a time, and at its best batch.
    p50_ms = models.FloatField(null=True, blank=True)
    rows_per_s = models.FloatField(null=True, blank=True)
    hardware = models.CharField(max_length=80, blank=True, db_default="")

    # Told by billing. The price of one prediction, where it can be said in one number.
    price_nanos = models.BigIntegerField(null=True, blank=True)
    # Whether more than that is metered, as tokens are.
    price_is_plain = models.BooleanField(db_default=True)
    predictions_30d = models.BigIntegerField(db_default=0)

    class Meta:
        verbose_name_plural = "catalogue entries"
        indexes = [
            models.Index(fields=["published_at"], name="marketplace_entry_published"),
        ]

    def __str__(self) -> str:
        return str(self.model)
