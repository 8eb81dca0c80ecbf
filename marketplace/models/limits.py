"""How much may be asked for at once: columns of whatever can be limited."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models

# Beyond this nobody means a limit; it also keeps the arithmetic of the gateway small.
PER_MINUTE_MAX = 100_000_000
CONCURRENCY_MAX = 1_000_000


# A budget of more different inputs than this says nothing any more.
QUERIES_MAX = 1_000_000_000


def _limit(verbose_name: str) -> models.PositiveIntegerField:
    return models.PositiveIntegerField(
        verbose_name, null=True, blank=True, validators=[MinValueValidator(1)]
    )


class Limited(models.Model):
    """Limits that the gateways keep together; empty where there is none of one's own."""

    requests_per_minute = _limit("requests per minute")
    # What the price counts, as rows of a batch.
    units_per_minute = _limit("units per minute")
    concurrency_max = _limit("requests at the same time")

    class Meta:
        abstract = True


class Guarded(models.Model):
    """How a model is kept from being copied by asking; counted for each consumer by itself."""

    # Different inputs that one consumer may ask all versions together; empty is no budget.
    queries_per_day_max = _limit("different inputs per day")
    queries_total_max = _limit("different inputs in all")
    # Whether a few inputs are kept as embeddings, from which the abuse score is made.
    samples_queries = models.BooleanField("watch for copying", default=False)

    class Meta:
        abstract = True
