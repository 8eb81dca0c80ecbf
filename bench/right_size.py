r"""The cheapest machines that keep an objective, from curves that a load test measured.

    .venv/bin/python -m bench.right_size --run g6.xlarge 10.json --run g6.xlarge 20.json … \
        [--curves FILE] --rate 40 --p95-ms 250 [--headroom 0.3]

Each run is what `python -m bench.open_loop --json` wrote of one machine of the class, at one rate.
Curves from elsewhere are JSON: {"g6.xlarge": [[rate, p95_ms, good_share], ...]}.
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
GOOD_SHARE_MIN = 0.99


@dataclass(frozen=True, slots=True)
class Point:
    """One rate (requests a second) of one machine, its p95 and the share (0 to 1) that was good."""

    rate: float
    p95_ms: float
    good_share: float


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
        if one.p95_ms > p95_ms or one.good_share < GOOD_SHARE_MIN:
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


def read_run(path: Path) -> Point:
    """The point of one run of the open loop.

    Raises:
        ValueError: Nobody was answered, or it is no such file.
    """
    found = json.loads(path.read_text())
    try:
        share = found["within_objectives"] / found["requests"]
        return Point(found["rate_per_s"], found["end_ms"]["p95"], share)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is no run of bench.open_loop with answers") from error


def read_curves(path: Path | None, runs: Sequence[tuple[str, str]]) -> dict[str, list[Point]]:
    """All points by class, in the order of their rates."""
    found = json.loads(path.read_text()) if path else {}
    curves = {name: [Point(*one) for one in rows] for name, rows in found.items()}
    for name, run in runs:
        curves.setdefault(name, []).append(read_run(Path(run)))
    return {name: sorted(points, key=lambda one: one.rate) for name, points in curves.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the JSON; 1 if no class keeps the objective, 2 for what is no curve."""
    parser = argparse.ArgumentParser(prog="bench.right_size", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run", nargs=2, action="append", default=[], metavar=("CLASS", "FILE"))
    parser.add_argument("--curves", type=Path, help="points of several classes")
    parser.add_argument("--rate", type=float, required=True, help="requests a second, in all")
    parser.add_argument("--p95-ms", type=float, required=True)
    parser.add_argument("--headroom", type=float, default=0.3, help="share of each to leave free")
    given = parser.parse_args(arguments)
    limits = {"rate": given.rate, "p95_ms": given.p95_ms, "headroom": given.headroom}
    try:
        sizes = choose(read_curves(given.curves, given.run), read_prices(), **limits)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not sizes:
        print(f"no class keeps a p95 of {given.p95_ms:g} ms at any measured rate", file=sys.stderr)
        return 1
    print(render(sizes), json.dumps([asdict(one) for one in sizes]), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
