"""The cheapest size that keeps an objective is chosen; a curve that says nothing is refused."""

from __future__ import annotations

import json

import pytest

from bench import right_size
from bench.right_size import Point

SMALL = [Point(2, 50, 1), Point(4, 100, 1), Point(8, 400, 0.9)]
LARGE = [Point(10, 20, 1), Point(20, 60, 1), Point(40, 300, 1)]
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


@pytest.mark.parametrize(("share", "rate_max"), [(0.99, 20), (0.989, 10)])
def test_share_of_good_answers_counts(share, rate_max):
    points = [Point(10, 20, 1), Point(20, 60, share), Point(40, 300, 1)]
    assert right_size.find_rate_max(points, 200) == rate_max


def write_runs(folder, rows) -> list[str]:
    """Arguments for runs as the open loop writes them; their order says nothing."""
    arguments = []
    for rate, p95_ms in reversed(rows):
        path = folder / f"{rate}.json"
        spread = {"p50": 1.0, "p95": p95_ms, "p99": p95_ms}
        run = {"requests": 98, "rate_per_s": rate, "within_objectives": 98, "end_ms": spread}
        path.write_text(json.dumps(run))
        arguments += ["--run", "g6.xlarge", str(path)]
    return arguments


def test_runs_of_the_open_loop_become_a_table(tmp_path, capsys):
    runs = write_runs(tmp_path, [(9.8, 14), (41, 16), (79.7, 300)])

    assert right_size.main([*runs, "--rate", "100", "--p95-ms", "250"]) == 0
    assert "| g6.xlarge | 4 | 25.00 | 41.00 |" in capsys.readouterr().out
    assert right_size.main([*runs, "--rate", "100", "--p95-ms", "1"]) == 1
    assert "no class keeps a p95 of 1 ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    "run", ["{}", '{"requests": 0, "within_objectives": 0}', '{"requests": 1, "end_ms": null}', "["]
)
def test_run_without_figures_is_refused(tmp_path, capsys, run):
    path = tmp_path / "run.json"
    path.write_text(run)

    with pytest.raises(SystemExit) as ended:
        right_size.main(["--run", "g6.xlarge", str(path), "--rate", "1", "--p95-ms", "1"])
    assert ended.value.code == 2
