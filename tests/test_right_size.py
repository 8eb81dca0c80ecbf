"""The cheapest size that keeps an objective is chosen; a curve that says nothing is refused."""

from __future__ import annotations

import pytest

from bench import right_size
from bench.right_size import Point

SMALL = [Point(2, 50, 2), Point(4, 100, 4), Point(8, 400, 7)]
LARGE = [Point(10, 20, 10), Point(20, 60, 20), Point(40, 300, 40)]
PRICES = {"small": 1.0, "large": 3.0}
CURVES = {"small": SMALL, "large": LARGE}


@pytest.mark.parametrize(
    ("rate", "name", "count", "extrapolated"),
    [(2, "small", 1, False), (4, "small", 2, False), (20, "large", 2, False)],
)
def test_cheapest_with_headroom(rate, name, count, extrapolated):
    best, *_ = right_size.choose(CURVES, PRICES, rate=rate, p95_ms=200, headroom=0.3)
    assert (best.name, best.count, best.is_extrapolated) == (name, count, extrapolated)


def test_below_the_measured_range_is_said():
    sizes = right_size.choose({"large": LARGE}, PRICES, rate=1, p95_ms=200, headroom=0)
    assert sizes[0].is_extrapolated
    assert "extrapolated" in right_size.render(sizes)


def test_objective_that_nobody_keeps_has_no_size():
    assert right_size.choose(CURVES, PRICES, rate=1, p95_ms=1, headroom=0) == []


@pytest.mark.parametrize(
    "points", [SMALL[:2], SMALL[::-1], [Point(1, 9, 1), Point(2, 9, 2), Point(3, 9, 3)]]
)
def test_curve_that_says_nothing_is_refused(points):
    with pytest.raises(ValueError, match="curve"):
        right_size.choose({"small": points}, PRICES, rate=1, p95_ms=200, headroom=0)


def test_prices_are_read():
    assert min(right_size.read_prices().values()) > 0
