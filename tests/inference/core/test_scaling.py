"""How many nodes a load asks for: more for more, never too many, none only where nothing waits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.core import scaling
from inference.core.scaling import Bounds, Load, NodeShape, Waiting, Wish

TARGET_S = 30.0
amounts = st.floats(0, 1e6, allow_nan=False)
shapes = st.builds(NodeShape, slot_count=st.integers(1, 16), slot_requests=st.floats(0.5, 64))


@st.composite
def bounds(draw: st.DrawFn) -> Bounds:
    least = draw(st.integers(0, 50))
    return Bounds(least, draw(st.integers(least, 500)), draw(st.floats(0, 900)))


def load(work: float = 0, arriving: float = 0, busy: float = 0, pending: float = 0) -> Load:
    return Load((Waiting(work, TARGET_S),), arriving, busy, pending)


Want = Callable[[Load, NodeShape, Bounds], int]


def find_less_for_more(want: Want, shape: NodeShape) -> tuple[float, float] | None:
    """Two amounts of waiting work of which the larger asks for fewer nodes."""
    wide = Bounds(0, 10**9)
    amounts = [1.5**power for power in range(40)]
    for less, more in itertools.pairwise(amounts):
        if want(load(less), shape, wide) > want(load(more), shape, wide):
            return less, more
    return None


@given(shapes, bounds(), *[st.tuples(amounts, amounts) for _ in range(4)])
def test_more_load_never_asks_for_fewer_nodes(shape, bound, work, arriving, busy, pending):
    pairs = (work, arriving, busy, pending)
    less = load(*[min(one) for one in pairs])
    more = load(*[max(one) for one in pairs])

    assert scaling.want_nodes(less, shape, bound) <= scaling.want_nodes(more, shape, bound)


def test_a_formula_that_falls_is_found():
    def falling(one: Load, shape: NodeShape, bound: Bounds) -> int:
        return math.ceil(1e6 / (1 + one.work_s))

    assert find_less_for_more(falling, NodeShape()) is not None
    assert find_less_for_more(scaling.want_nodes, NodeShape()) is None


@given(shapes, bounds(), amounts, amounts, amounts, amounts)
def test_the_bounds_hold(shape, bound, work, arriving, busy, pending):
    nodes = scaling.want_nodes(load(work, arriving, busy, pending), shape, bound)

    assert bound.node_count_min <= nodes <= bound.node_count_max


@given(shapes, amounts, amounts, amounts, amounts)
def test_none_are_wanted_only_where_nothing_waits_comes_or_runs(
    shape, work, arriving, busy, pending
):
    asked = load(work, arriving, busy, pending)
    nodes = scaling.queue_nodes(asked, shape) + scaling.request_nodes(pending, shape)

    wanted = scaling.want_nodes(asked, shape, Bounds(0, 10))
    assert (wanted == 0) == (nodes <= 1e-9)
    if asked.is_idle:
        assert wanted == 0


@pytest.mark.parametrize(
    "asked",
    [load(work=0.001), load(arriving=0.001), load(busy=1), load(pending=1)],
    ids=["waits", "comes", "runs", "is asked"],
)
def test_anything_at_all_wants_a_node(asked):
    assert scaling.want_nodes(asked, NodeShape(8, 64), Bounds(0, 10)) == 1
    assert not asked.is_idle


@given(st.floats(0.1, 1e5), st.floats(0, 1e3), st.integers(1, 8))
def test_so_many_nodes_begin_all_in_time_and_one_fewer_would_not(work, arriving, slots):
    shape = NodeShape(slots)
    asked = load(work, arriving)

    nodes = scaling.want_nodes(asked, shape, Bounds(0, 10**9))

    def wait_s(node_count: int) -> float:
        # What waits and what comes until the target, through what the slots do at most.
        return (work + arriving / scaling.BUSY_MAX * TARGET_S) / (slots * node_count)

    assert wait_s(nodes) <= TARGET_S * (1 + 1e-6)
    assert nodes == 1 or wait_s(nodes - 1) > TARGET_S * (1 - 1e-6)


def test_time_counts_and_not_the_number_of_jobs():
    long = load(work=100 * 10.0)
    short = load(work=100 * 0.1)

    wide = Bounds(0, 1000)
    assert scaling.want_nodes(long, NodeShape(), wide) == 34
    assert scaling.want_nodes(short, NodeShape(), wide) == 1


def test_what_may_wait_longer_asks_for_less():
    patient = Load((Waiting(3600, 900.0),))
    urgent = Load((Waiting(3600, 30.0),))

    wide = Bounds(0, 1000)
    assert scaling.want_nodes(patient, NodeShape(), wide) == 4
    assert scaling.want_nodes(urgent, NodeShape(), wide) == 120


def test_the_wait_behind_what_waits():
    told = {"slot_count": 4, "cold_start_s": 180.0}

    assert scaling.predict_wait_s(0, node_count=1, **told) == 0
    assert scaling.predict_wait_s(600, node_count=3, **told) == 50
    assert scaling.predict_wait_s(0, node_count=0, **told) == 180
    assert scaling.predict_wait_s(400, node_count=0, **told) == 280


def follow(wanted: Sequence[int], *, window_s: float, step_s: float = 1.0) -> list[int]:
    """How many nodes there are after each look, beginning with the first that is wanted."""
    wishes = scaling.begin_wishes(0.0, wanted[0])
    had = []
    for number, nodes in enumerate(wanted):
        wishes = scaling.keep_wishes(wishes, Wish(number * step_s, nodes), window_s)
        had.append(scaling.choose_nodes(wishes))
    return had


def follow_at_once(wanted: Sequence[int], *, window_s: float) -> list[int]:
    """The same without a window: a broken one."""
    return list(wanted)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(1, 60))
@example([5, 0, 0, 0], 2)
def test_the_most_of_the_window_is_had(wanted, window):
    had = follow(wanted, window_s=window)

    for at, nodes in enumerate(had):
        assert nodes == max(wanted[max(0, at - window + 1) : at + 1])


def find_early_zero(had: Sequence[int], wanted: Sequence[int], window: int) -> int | None:
    """When there was no node though one was wanted within the window."""
    for at, nodes in enumerate(had):
        if nodes == 0 and any(wanted[max(0, at - window + 1) : at + 1]):
            return at
    return None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_none_are_left_only_after_nothing_was_wanted_for_the_whole_window(wanted):
    assert find_early_zero(follow(wanted, window_s=30), wanted, 30) is None


def test_a_pool_that_gives_all_back_at_once_is_found():
    wanted = [1, 0, 1, 0, 0]

    assert find_early_zero(follow_at_once(wanted, window_s=30), wanted, 30) == 1
    assert find_early_zero(follow(wanted, window_s=30), wanted, 30) is None


def count_changes(had: Sequence[int]) -> int:
    return sum(one != other for one, other in itertools.pairwise(had))


@given(st.floats(0, 1e4), st.floats(0, 100))
def test_a_constant_load_changes_nothing(work, arriving):
    wanted = [scaling.want_nodes(load(work, arriving), NodeShape(), Bounds(0, 100))] * 600

    assert count_changes(follow(wanted, window_s=300)) == 0


@given(st.lists(st.booleans(), min_size=10, max_size=600))
def test_a_load_at_the_border_of_two_counts_does_not_flap(is_over):
    wanted = [4 + one for one in is_over]

    # Once up, and never down while it comes again within the window.
    had = follow(wanted, window_s=600)
    assert count_changes(had) <= 1


def test_without_a_window_it_would_flap():
    wanted = [4, 5] * 50

    assert count_changes(follow_at_once(wanted, window_s=300)) == 99
    assert count_changes(follow(wanted, window_s=300)) == 1


def test_who_starts_anew_takes_no_node_away():
    wishes = scaling.begin_wishes(1000.0, 7)

    soon = scaling.keep_wishes(wishes, Wish(1299.0, 1), 300.0)
    later = scaling.keep_wishes(soon, Wish(1300.0, 1), 300.0)

    assert scaling.choose_nodes(soon) == 7
    assert scaling.choose_nodes(later) == 1


@pytest.mark.parametrize(("cold_start_s", "expected_s"), [(60.0, 300.0), (900.0, 900.0)])
def test_nodes_are_kept_for_as_long_as_it_takes_to_get_one(cold_start_s, expected_s):
    assert Bounds(0, 10, cold_start_s).scale_down_s == expected_s


def test_spot_nodes_are_waited_for():
    split = scaling.split_nodes(10, missing=[0, 10, 10, 10], ready=[0, 0, 0, 0])

    assert split == scaling.Split(spot=10, on_demand=0)


def test_spot_nodes_that_do_not_come_are_made_up_for():
    split = scaling.split_nodes(10, missing=[10, 10, 6, 6], ready=[0, 0, 4, 4])

    assert split == scaling.Split(spot=10, on_demand=6)


def test_spot_nodes_that_were_taken_away_are_made_up_for_at_once():
    split = scaling.split_nodes(10, missing=[0, 0, 0, 3], ready=[10, 10, 10, 7])

    assert split == scaling.Split(spot=10, on_demand=3)


def test_spot_nodes_that_were_given_back_are_not():
    split = scaling.split_nodes(4, missing=[0, 0, 0, 0], ready=[10, 10, 4, 4])

    assert split == scaling.Split(spot=4, on_demand=0)


def test_what_is_never_spot_is_ordered_at_once():
    assert scaling.split_nodes(10, missing=[0, 8], ready=[0, 0], on_demand_min=2) == (
        scaling.Split(spot=8, on_demand=2)
    )
    assert scaling.split_nodes(1, missing=[], ready=[], on_demand_min=2) == scaling.Split(0, 1)


looks = st.lists(st.tuples(st.integers(-5, 50), st.integers(0, 50)), min_size=1, max_size=20)


@given(st.integers(0, 50), looks, st.integers(0, 5))
def test_others_never_make_up_for_more_than_is_missing(wanted, seen, least):
    missing, ready = zip(*seen, strict=True)

    split = scaling.split_nodes(wanted, missing=missing, ready=ready, on_demand_min=least)

    assert split.spot + min(wanted, least) == max(wanted, min(wanted, least))
    made_up = split.on_demand - min(wanted, least)
    assert 0 <= made_up <= max(0, missing[-1])
    assert split.on_demand <= wanted


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(0, 3), st.integers(3, 20))
def test_machines_that_are_kept_ready_stay_within_their_bounds(nodes, share, least, most):
    kept = scaling.buffer_nodes(nodes, share=share, at_least=least, at_most=most)

    assert least <= kept <= most
    assert kept in (least, most) or kept - 1 < nodes * share <= kept + 1e-6


@pytest.mark.parametrize("bad_case", [(5, 4), (-1, 4)])
def test_bounds_that_no_count_meets_are_refused(bad_case):
    with pytest.raises(ValueError, match="least number"):
        Bounds(*bad_case)


def test_a_node_without_a_slot_is_refused():
    with pytest.raises(ValueError, match="slot"):
        NodeShape(0)
