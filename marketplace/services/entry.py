"""Facts of the catalogue that other packages know: prices, and how much a model is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """What the catalogue says of a price.

    Args:
        nanos: Of one prediction, before anything that is metered.
        is_plain: Whether that is all.
    """

    nanos: int
    is_plain: bool


# Both change only rows that differ, in one order, so that two runs do not wait in a circle.
_PRICES = """
WITH told AS (
    SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::boolean[]) AS one (model_id, nanos, is_plain)
), due AS (
    SELECT entry.model_id, told.nanos, coalesce(told.is_plain, true) AS is_plain
    FROM marketplace_catalogueentry AS entry LEFT JOIN told USING (model_id)
    WHERE (entry.price_nanos, entry.price_is_plain)
        IS DISTINCT FROM (told.nanos, coalesce(told.is_plain, true))
    ORDER BY entry.model_id FOR UPDATE OF entry
)
UPDATE marketplace_catalogueentry AS entry
SET price_nanos = due.nanos, price_is_plain = due.is_plain
FROM due WHERE due.model_id = entry.model_id
"""
_PREDICTIONS = """
WITH told AS (
    SELECT * FROM unnest(%s::uuid[], %s::bigint[]) AS one (model_id, predictions)
), due AS (
    SELECT entry.model_id, coalesce(told.predictions, 0) AS predictions
    FROM marketplace_catalogueentry AS entry LEFT JOIN told USING (model_id)
    WHERE entry.predictions_30d IS DISTINCT FROM coalesce(told.predictions, 0)
    ORDER BY entry.model_id FOR UPDATE OF entry
)
UPDATE marketplace_catalogueentry AS entry SET predictions_30d = due.predictions
FROM due WHERE due.model_id = entry.model_id
"""


def note_prices(prices: Mapping[UUID, ListedPrice]) -> int:
    """Say what all models cost now; one that is not named has no price. Returns the changes."""
    models = list(prices)
    nanos = [prices[one].nanos for one in models]
    return _write(_PRICES, [models, nanos, [prices[one].is_plain for one in models]])


def note_predictions(counts: Mapping[UUID, int]) -> int:
    """Say how often all models were used; one that is not named, never. Returns the changes."""
    return _write(_PREDICTIONS, [list(counts), list(counts.values())])


def _write(statement: str, values: list[Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.rowcount
