"""How much may be asked for at once: columns of whatever can be limited."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models

# Beyond this nobody means a limit; it also keeps the arithmetic of the gateway small.
PER_MINUTE_MAX = 100_000_000
CONCURRENCY_MAX = 1_000_000


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
