"""Look after rows that wait for Stripe, one by one, so that none of them holds up the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db.models import F, Model, QuerySet
from django.db.models.functions import Now

from billing.errors import StripeUnavailableError
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger(__name__)
Row = TypeVar("Row", bound=Model)


def look_after(
    rows: QuerySet[Row], look: Callable[[Row], object], *, size_max: int, what: str
) -> int:
    """Look at the rows that were not looked at for longest; returns how many were.

    Args:
        rows: Those that wait; the table has `checked_at` and `created_at`.
        look: Asks Stripe about one and books what it says; safe to repeat.
        size_max: At most so many in one go.
        what: What a row is, for the log.
    """
    waiting = rows.order_by(F("checked_at").asc(nulls_first=True), "created_at")[:size_max]
    looked_at = 0
    for row in waiting:
        # Before the look, so that a row that always fails goes to the end of the queue too.
        rows.filter(pk=row.pk).update(checked_at=Now())
        looked_at += 1
        try:
            look(row)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; the poll goes on next time")
            break
        except MarketplaceError as error:
            # Stripe does not know a page after a change of keys, for example.
            logger.warning("%s %s cannot be settled: %s", what, row.pk, error.detail)
    return looked_at
