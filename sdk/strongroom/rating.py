"""Rating: from the units of a prediction and the terms of its price to nano-dollars.

The same sum is written three times on purpose: here, for whoever checks a receipt and for the
gateway, which must know the most that a prediction can cost before it starts; in SQL
(`billing_rate`), which decides what is charged; and with fractions, in the tests, which compare
the two.

A price has a flat part for each row, and rates for a million units of what is metered. Each
kind is rounded up to a nano-dollar by itself. A free quota and volume tiers count the rows of an
account and a model in a calendar month (UTC): each row is charged at the tier that it falls
into, and the sum is rounded up once. At last comes the minimum, unless every row was free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MILLION = 1_000_000
BPS = 10_000
# What can be metered. A rate is for a million of them.
KINDS = ("input_token", "output_token", "compute_ms", "row", "pixel")
# Of one kind and one prediction: a year of milliseconds is less, and so is any image.
UNITS_MAX = 10**12


@dataclass(frozen=True, slots=True)
class Terms:
    """What a price says. A tier is (from which row of the month on, basis points of the rest)."""

    nanos_per_prediction: int = 0
    # Nano-dollars for a million units, by kind.
    rates: Mapping[str, int] = field(default_factory=dict)
    minimum_nanos: int = 0
    free_units: int = 0
    tiers: Sequence[Sequence[int]] = ()

    @property
    def is_plain(self) -> bool:
        """Whether rows times the flat part is all there is."""
        return not (self.rates or self.is_counted or self.minimum_nanos)

    @property
    def is_counted(self) -> bool:
        """Whether it matters how many rows came before in the month."""
        return bool(self.free_units or self.tiers)


@dataclass(frozen=True, slots=True)
class Line:
    """What one kind of units comes to before tiers and minimum."""

    kind: str
    units: int
    nanos: int


def list_lines(terms: Terms, units: int, metered: Mapping[str, int]) -> list[Line]:
    """What each part of a price comes to at the list price.

    Args:
        terms: Of the price.
        units: Rows of the prediction.
        metered: Units of each kind that the price has a rate for, and of no other.

    Raises:
        ValueError: The units are no counts, or not those that the price has rates for.
    """
    if type(units) is not int or not 0 < units <= UNITS_MAX:
        raise ValueError("a prediction has one row or more")
    if metered.keys() != terms.rates.keys():
        raise ValueError("what is metered is what has a rate")
    if any(type(one) is not int or not 0 <= one <= UNITS_MAX for one in metered.values()):
        raise ValueError("a unit is a count")
    if metered.get("row", units) != units:
        raise ValueError("the rows are those of the prediction")
    lines = [Line("prediction", units, units * terms.nanos_per_prediction)]
    for kind, rate in terms.rates.items():
        lines.append(Line(kind, metered[kind], -(-metered[kind] * rate // MILLION)))
    return lines


def rate(terms: Terms, units: int, metered: Mapping[str, int], position: int | None = None) -> int:
    """What a prediction costs, in nano-dollars.

    Args:
        terms: Of the price.
        units: Rows of the prediction.
        metered: As in `list_lines`.
        position: How many rows of the month came before it; None asks for the most that it can
            cost, wherever it falls.

    Raises:
        ValueError: As `list_lines`.
    """
    gross = sum(one.nanos for one in list_lines(terms, units, metered))
    weight = units * BPS if position is None else weigh(terms, units, position)
    if weight == 0:
        return 0
    return max(-(-gross * weight // (units * BPS)), terms.minimum_nanos)


def weigh(terms: Terms, units: int, position: int) -> int:
    """The basis points of all rows of a prediction together, by the tiers that they fall into."""
    begin, end = position, position + units
    weight = units * BPS - _overlap(begin, end, 0, terms.free_units) * BPS
    for place, (start, bps) in enumerate(terms.tiers, 1):
        until = terms.tiers[place][0] if place < len(terms.tiers) else end
        weight -= _overlap(begin, end, start, until) * (BPS - bps)
    return weight


def _overlap(begin: int, end: int, start: int, until: int) -> int:
    return max(0, min(end, until) - max(begin, start))


def read_terms(value: Mapping[str, Any], nanos_per_prediction: int) -> Terms:
    """Terms as a receipt has them."""
    return Terms(
        nanos_per_prediction,
        value["nanos_per_million"],
        value["minimum_nanos"],
        value["free_units"],
        value["tiers"],
    )


def scale(terms: Terms, percent: int) -> Terms:
    """The same at so many percent, as lines of batches are charged.

    Each part is rounded up to a nano-dollar; what is free, and the steps of tiers, stay.
    """
    return replace(
        terms,
        nanos_per_prediction=-(-terms.nanos_per_prediction * percent // 100),
        rates={kind: -(-nanos * percent // 100) for kind, nanos in terms.rates.items()},
        minimum_nanos=-(-terms.minimum_nanos * percent // 100),
    )


def is_dearer(new: Terms, old: Terms) -> bool:
    """Whether anything could cost more by the new terms than by the old ones."""
    if (
        new.nanos_per_prediction > old.nanos_per_prediction
        or new.minimum_nanos > old.minimum_nanos
        or new.free_units < old.free_units
        or any(nanos > old.rates.get(kind, 0) for kind, nanos in new.rates.items())
    ):
        return True
    starts = {one[0] for one in (*new.tiers, *old.tiers)}
    return any(weigh(new, 1, start) > weigh(old, 1, start) for start in starts)
