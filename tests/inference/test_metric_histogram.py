"""Quantiles of histograms against exact ones, with the error that is promised."""

from __future__ import annotations

import math
import random

import pytest

from inference.core import histogram
from inference.gateway import metrics


def exact_ms(times_us: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(times_us)[max(1, math.ceil(share * len(times_us))) - 1] / 1000


def count(times_us: list[float]) -> dict[int, int]:
    return histogram.add({histogram.find_bucket(time_us): 1} for time_us in times_us)


SAMPLES = {
    "long tail": lambda rng: rng.lognormvariate(10, 2),
    "two humps": lambda rng: rng.choice([rng.uniform(900, 1100), rng.uniform(2e6, 3e6)]),
    "flat": lambda rng: rng.uniform(100, 6e8),
    "all the same": lambda rng: 12_345.0,
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("size", [1, 2, 19, 1_000, 20_000])
def test_quantiles_are_within_the_stated_error(name: str, size: int) -> None:
    rng = random.Random(f"{name} {size}")
    times_us = [min(6.1e8, max(100.0, SAMPLES[name](rng))) for _ in range(size)]
    counts = count(times_us)

    for share in (0.5, 0.9, 0.95, 0.99, 1.0):
        exact = exact_ms(times_us, share)
        found = histogram.quantile_ms(counts, share)
        assert found is not None
        assert abs(found - exact) <= exact * histogram.ERROR_MAX * 1.000001, (share, exact, found)


def test_the_error_is_no_smaller_than_stated() -> None:
    # A control: a time at the edge of its bucket is off by nearly all of the promised error.
    time_us = histogram.FLOOR_US * histogram.GROWTH**50 * 1.000001
    found = histogram.quantile_ms(count([time_us]), 0.5)

    assert found is not None
    error = abs(found - time_us / 1000) / (time_us / 1000)
    assert histogram.ERROR_MAX * 0.99 < error <= histogram.ERROR_MAX * 1.000001


def test_the_sum_of_parts_is_as_good_as_the_whole() -> None:
    rng = random.Random(7)
    times_us = [rng.lognormvariate(9, 1.5) for _ in range(5_000)]
    parts = [count(times_us[i::60]) for i in range(60)]

    assert histogram.add(parts) == count(times_us)


def test_an_average_of_percentiles_would_be_wrong() -> None:
    # Why histograms are kept: a quiet minute must not weigh as much as a busy one.
    busy, quiet = [10_000.0] * 990, [1_000_000.0] * 10
    average = (exact_ms(busy, 0.99) + exact_ms(quiet, 0.99)) / 2
    merged = histogram.quantile_ms(histogram.add([count(busy), count(quiet)]), 0.99)

    assert merged == pytest.approx(10, rel=histogram.ERROR_MAX)
    assert average == pytest.approx(505)


def test_ends_of_the_range() -> None:
    assert histogram.find_bucket(0) == histogram.find_bucket(100) == 0
    assert histogram.find_bucket(100.0001) == 1
    assert histogram.find_bucket(1e12) == histogram.LAST
    assert histogram.quantile_ms({}, 0.5) is None
    assert histogram.quantile_ms({0: 3}, 0.5) == 0.1
    assert histogram.read_value_ms(histogram.LAST) == pytest.approx(612_800, rel=0.01)


def test_a_bucket_that_the_limit_cuts_counts_as_slower() -> None:
    counts = count([50_000.0, 99_000.0, 101_000.0, 200_000.0])
    limit_ms = 100.0

    assert histogram.count_within(counts, limit_ms) <= 2
    assert histogram.count_within(counts, 130) == 3
    assert histogram.count_within(counts, 1) == 0


def test_quantiles_with_edges_are_the_upper_edge() -> None:
    edges_s = (0.001, 0.01, 0.1)

    assert histogram.edge_quantile_ms({0: 5, 1: 5}, 0.5, edges_s) == 1
    assert histogram.edge_quantile_ms({0: 5, 1: 6}, 0.5, edges_s) == 10
    assert histogram.edge_quantile_ms({3: 1}, 0.5, edges_s) == 100
    assert histogram.edge_quantile_ms({}, 0.5, edges_s) is None


def test_edges_are_those_of_the_gateways() -> None:
    series = metrics.Series("m", "1")

    assert series.queue_seconds.edges == histogram.QUEUE_EDGES_S
    assert series.first_token_seconds.edges == histogram.FIRST_TOKEN_EDGES_S
