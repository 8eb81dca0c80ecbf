"""The cheapest machines that keep an objective, from curves that a load test measured.

    .venv/bin/python -m bench.right_size --curves FILE --rate 40 --p95-ms 250 [--headroom 0.3]

The file is JSON: {"g6.xlarge": [[rate, p95_ms, goodput_per_s], ...]}, each point of one machine.
Prices are from bench/gpu_prices.tsv: list prices, to be checked against one's own. It assumes that
the balancer spreads the rate evenly over equal machines.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PRICES = Path(__file__).with_name("gpu_prices.tsv")
POINTS_MIN = 3


@dataclass(frozen=True, slots=True)
class Point:
    """One rate (requests a second) of one machine, its p95 and the good answers a second."""

    rate: float
    p95_ms: float
    goodput_per_s: float


@dataclass(frozen=True, slots=True)
class Size:
    """So many machines of a class.

    Args:
        is_extrapolated: Each would get less than the lowest rate that was measured.
    """

    name: str
    count: int
    rate_each: float
    rate_max: float
    usd_per_hour: float
    is_extrapolated: bool


def check_curve(points: Sequence[Point]) -> None:
    """Raises:
    ValueError: Too few points, rates that do not rise, or a p95 that does not rise over all."""
    if len(points) < POINTS_MIN:
        raise ValueError(f"a curve needs {POINTS_MIN} points")
    if any(later.rate <= sooner.rate for sooner, later in itertools.pairwise(points)):
        raise ValueError("the rates of a curve must rise")
    if points[-1].p95_ms <= points[0].p95_ms:
        raise ValueError("the p95 of a curve must rise: the load reached no limit")


def find_rate_max(points: Sequence[Point], p95_ms: float) -> float:
    """The highest measured rate up to which the objective held, with 99 % good; 0 for none."""
    held = 0.0
    for one in points:
        if one.p95_ms > p95_ms or one.goodput_per_s < 0.99 * one.rate:
            break
        held = one.rate
    return held


def choose(
    curves: Mapping[str, Sequence[Point]],
    prices: Mapping[str, float],
    *,
    rate: float,
    p95_ms: float,
    headroom: float,
) -> list[Size]:
    """Sizes that carry the rate and leave `headroom` (0 to 1) of each machine free, cheapest first.

    Raises:
        ValueError: A curve says nothing, or a number makes no sense.
    """
    if rate <= 0 or not 0 <= headroom < 1:
        raise ValueError("the rate must be above 0, the headroom at least 0 and below 1")
    sizes = []
    for name, points in curves.items():
        check_curve(points)
        if name not in prices:
            raise ValueError(f"{name} has no price")
        if rate_max := find_rate_max(points, p95_ms):
            count = math.ceil(rate / (rate_max * (1 - headroom)))
            each = rate / count
            is_beyond = each < points[0].rate
            sizes.append(Size(name, count, each, rate_max, count * prices[name], is_beyond))
    return sorted(sizes, key=lambda one: (one.usd_per_hour, one.count))


def render(sizes: Sequence[Size]) -> str:
    """A Markdown table, cheapest first."""
    lines = ["| class | count | each /s | at most /s | USD/h | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.name} | {one.count} | {one.rate_each:.2f} | {one.rate_max:.2f}"
        f" | {one.usd_per_hour:.3f} | {'extrapolated' if one.is_extrapolated else ''} |"
        for one in sizes
    ]
    return "\n".join(lines)


def read_prices(path: Path = PRICES) -> dict[str, float]:
    """US dollars an hour by class."""
    with path.open() as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["class"]: float(row["usd_per_hour"]) for row in rows}


def main() -> int:
    """Print the table and the JSON; 1 if no class keeps the objective."""
    parser = argparse.ArgumentParser(prog="bench.right_size")
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--p95-ms", type=float, required=True)
    parser.add_argument("--headroom", type=float, default=0.3)
    given = parser.parse_args()
    found = json.loads(given.curves.read_text())
    curves = {name: [Point(*one) for one in rows] for name, rows in found.items()}
    limits = {"rate": given.rate, "p95_ms": given.p95_ms, "headroom": given.headroom}
    sizes = choose(curves, read_prices(), **limits)
    print(render(sizes), json.dumps([asdict(one) for one in sizes]), sep="\n\n")
    return 0 if sizes else 1


if __name__ == "__main__":
    sys.exit(main())
