"""What many predictions of a model come to, before anybody runs one; by the rules that charge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from billing.models import Price
from strongroom.rating import Terms, rate

ROW = "row"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sum for a month in which nothing was used before."""

    predictions: int
    first_nanos: int
    last_nanos: int
    total_nanos: int
    # What is charged for, where the price has a most that is less than what was asked for.
    capped: Mapping[str, int]

    @property
    def is_even(self) -> bool:
        """Whether each prediction costs the same."""
        return self.total_nanos == self.predictions * self.first_nanos


def estimate(price: Price, *, predictions: int, rows: int, metered: Mapping[str, int]) -> Estimate:
    """Add up predictions that are all alike.

    Args:
        price: What is valid.
        predictions: How many, one or more.
        rows: Of each.
        metered: Units of each prediction, of every kind but rows that the price has a rate for.
    """
    charged, capped = {}, {}
    for kind in price.rates:
        units = rows if kind == ROW else metered[kind]
        most = price.max_units.get(kind)
        if most is not None and units > most * rows:
            units = capped[kind] = most * rows
        charged[kind] = units
    terms = price.terms

    def cost(index: int) -> int:
        return rate(terms, rows, charged, index * rows)

    marks = [*list_marks(terms, predictions, rows), predictions]
    total = sum((end - begin) * cost(begin) for begin, end in pairwise(marks))
    return Estimate(predictions, cost(0), cost(predictions - 1), total, capped)


def list_marks(terms: Terms, predictions: int, rows: int) -> list[int]:
    """From which prediction on the cost of one is another: where a tier begins, at 0 the first.

    A prediction whose rows lie in two tiers has a cost of its own: it stands alone.
    """
    marks = {0}
    for start in (terms.free_units, *(tier[0] for tier in terms.tiers)):
        marks |= {start // rows, -(-start // rows)}
    return sorted(mark for mark in marks if 0 <= mark < predictions)
