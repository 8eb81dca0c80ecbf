"""The simulator of autoscaling: it counts right, and tells a good formula from a bad one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench import autoscale
from bench.autoscale import CPU, Fixed, Formula, Nodes, Outcome, Seen, Trace, Want, World
from inference.core import scaling

# Jobs of 20 s: who counts them takes them for the short ones of another day.
WORLD = World(job_s=20.0)
SPOT_S = autoscale.HOUR_S


@pytest.fixture(scope="module")
def tv_spot() -> Trace:
    whole = autoscale.tv_spot(base_per_s=0.05)
    begin = SPOT_S - 600
    return replace(whole, jobs=whole.jobs[begin : begin + 2700])


def run(policy, trace: Trace, world: World = WORLD, *, first: int = 1, **kind) -> Outcome:
    return autoscale.run("it", policy, Nodes(world, first=first, **kind), trace, world)


def check_better_than_cpu(trace: Trace, want: Want) -> None:
    ours, cpu = run(Formula(want), trace), run(CPU(), trace)

    assert ours.slo > cpu.slo + 0.2


def test_a_spot_on_tv_is_served_better_than_by_cpu(tv_spot):
    check_better_than_cpu(tv_spot, autoscale.want_by_wait)


def test_by_length_instead_of_wait_it_would_not_be(tv_spot):
    with pytest.raises(AssertionError):
        check_better_than_cpu(tv_spot, autoscale.want_by_length)


def test_a_formula_that_forgets_what_comes_would_be_seen(tv_spot, monkeypatch):
    good = run(Formula(), tv_spot)
    # The simulator runs the very formulas: what is broken there is broken here.
    monkeypatch.setattr(scaling, "queue_nodes", lambda load, shape: 1.0)
    broken = run(Formula(), tv_spot)

    assert good.slo > 0.6
    assert broken.slo < 0.3
    assert broken.machines_max == 1


def test_it_costs_less_than_a_fleet_for_the_peak(tv_spot):
    peak = autoscale.size_fleet(autoscale.peak_per_s(tv_spot), WORLD)
    fixed = run(Fixed(peak), tv_spot)

    assert run(Formula(), tv_spot).usd < fixed.usd
    assert fixed.changes_per_hour <= 3600 / tv_spot.length_s


def test_machines_that_are_kept_ready_shorten_the_wait(tv_spot):
    with_buffer = run(Formula(), tv_spot, buffer=20)
    without = run(Formula(), tv_spot)

    assert with_buffer.slo > without.slo
    assert with_buffer.usd > without.usd


def make_trace(jobs: np.ndarray, **changes) -> Trace:
    return Trace("it", jobs, **changes)


def test_all_work_is_served_once_and_waits_are_those_of_the_line():
    world = World(job_s=1.0, slot_count=2)
    # Ten jobs at once for two slots: the middle one begins after two and a half seconds.
    trace = make_trace(np.array([10] + [0] * 9))

    done = run(Fixed(1), trace, world)

    assert done.waits_s[0] == 2
    assert np.isnan(done.waits_s[1:]).all()
    assert done.slo == 1


def test_what_never_begins_is_not_in_time():
    world = World(job_s=1.0, slot_count=1, slo_s=5)
    trace = make_trace(np.array([10] * 10))

    done = run(Fixed(1), trace, world)

    assert math.isinf(done.wait_p99_s)
    assert done.slo == pytest.approx(0.1)


def test_a_node_comes_after_its_cold_start_and_is_paid_from_its_order():
    world = World(job_s=1.0, usd_per_hour=3600.0)
    done = run(Fixed(2), make_trace(np.ones(400, dtype=int)), world)

    assert done.nodes[world.cold_start_s - 1] == 1
    assert done.nodes[world.cold_start_s] == 2
    # One from the beginning, and one that was ordered in the first second.
    assert done.usd == pytest.approx(2 * 400)


def test_an_idle_pool_goes_to_zero_after_the_window_and_comes_back():
    world = World(job_s=1.0)
    jobs = np.zeros(2400, dtype=int)
    jobs[1200] = 1

    done = run(Formula(), make_trace(jobs), world)

    gone_s = int(np.argmin(done.nodes))
    assert 300 <= gone_s <= 300 + world.look_s
    assert done.nodes[1199] == 0
    assert done.nodes[1200 + world.look_s + world.cold_start_s] == 1
    assert done.waits_s[1200] <= world.look_s + world.cold_start_s
    assert done.nodes[-1] == 0


def seen(busy: float, ready: int, ordered: int | None = None) -> Seen:
    return Seen(0, 0, 0, busy, ready, ready if ordered is None else ordered)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        # 4 slots a node, 70 % wanted.
        (seen(28, 10), 10),
        (seen(30, 10), 10),
        (seen(40, 10), 15),
        (seen(14, 10), 10),
        # The use of what is full is 100 %, however much waits: ten nodes order five.
        (replace(seen(40, 10), work_s=1e6), 15),
        # Until those are ready nothing more is ordered.
        (seen(40, 10, 15), 15),
        (seen(0, 0, 3), 3),
    ],
)
def test_the_autoscaler_on_cpu_is_the_usual_one(look, expected):
    # What was highest within the window holds, so less is not had at once.
    assert CPU().choose(look, World(node_count_max=100)) == expected


def test_a_tenth_more_or_less_changes_nothing():
    wanted = {20: 20, 21: 20, 19: 20, 23: 23}

    for nodes, expected in wanted.items():
        policy = Formula(lambda _, __, nodes=nodes: nodes)
        assert policy.choose(seen(0, 20), World()) == expected
    assert Formula(lambda _, __: 1).choose(seen(0, 0), World()) == 1


def test_the_autoscaler_on_cpu_gives_nodes_back_after_its_window():
    policy = CPU()
    policy.choose(seen(28, 10), World())
    later = [policy.choose(replace(seen(14, 10), now_s=at), World()) for at in (15, 299, 300)]

    assert later == [10, 10, 5]


def test_spot_nodes_that_are_taken_away_are_made_up_for():
    world = World(job_s=2.0)
    jobs = np.full(4 * autoscale.HOUR_S, 8)
    trace = make_trace(jobs, reclaims={1200: 0.6}, without_spot=[(1200, 3000)])

    alone = run(Formula(), trace, world, first=5, has_spot=True, makes_up=False)
    made_up = run(Formula(), trace, world, first=5, has_spot=True)
    plain = run(Formula(), trace, world, first=5)

    assert alone.slo < made_up.slo - 0.1
    assert made_up.usd < plain.usd
    assert alone.nodes[2900] < 4
    assert made_up.nodes[2900] >= 4


def test_prices_say_where_they_are_from():
    for row in autoscale.read_prices().values():
        assert float(row["spot_usd_per_hour"]) < float(row["usd_per_hour"])
        assert row["source"].startswith("list price, check yours: ")
        assert row["date"]


def test_it_prints_a_table_for_each_trace(capsys, monkeypatch):
    short = {"diurnal": 600, "weekend": 600, "spot_day": 600, "tv_spot": 600}
    for name, length in short.items():
        whole = getattr(autoscale, name)
        monkeypatch.setattr(
            autoscale,
            name,
            lambda whole=whole, length=length, **load: replace(
                one := whole(**load), jobs=one.jobs[:length]
            ),
        )

    autoscale.main(["--small", "--class", "g5.xlarge"])

    printed = capsys.readouterr().out
    assert "g5.xlarge: A10G 24 GB, $1.006 an hour" in printed
    assert printed.count("| in time | p99 wait |") == 5
    assert printed.count(f"| {autoscale.BY_WAIT} |") == 4
    assert printed.count("kept ready |") == 1
