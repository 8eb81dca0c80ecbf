"""The arithmetic of rates, over any sequence of arrivals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gateway.config import LIMIT_MAX
from inference.gateway.gcra import SLOT, Pace, burst_of, has_room, wait_us
from tests.gateway.windows import check_windows

MINUTE_US = 60_000_000
LIMITS = st.one_of(st.integers(1, 1_000), st.integers(1, LIMIT_MAX))
# Pauses of nothing, of a slot or so, and of minutes; each with a count of slots.
ARRIVALS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 2_000_000), st.integers(0, 3 * MINUTE_US)),
        st.integers(1, 30),
    ),
    max_size=60,
)


def run(pace: Pace, arrivals) -> list[tuple[int, int]]:
    """What is let in: when, and how much."""
    now_us, taken = 1, []
    for pause_us, count in arrivals:
        now_us += pause_us
        if count <= pace.per_minute and pace.has_room(count, now_us):
            pace.take(count)
            taken.append((now_us, count))
    return taken


@given(LIMITS, ARRIVALS)
def test_no_span_of_time_has_more_than_burst_and_rate(per_minute, arrivals):
    pace = Pace(per_minute, burst_of(per_minute))

    check_windows(run(pace, arrivals), per_minute)


@given(LIMITS)
def test_one_more_than_the_burst_is_noticed(per_minute):
    burst = burst_of(per_minute)
    check_windows([(1, 1)] * burst if burst < 1_000 else [(1, burst)], per_minute)

    with pytest.raises(AssertionError):
        check_windows([(1, 1), (1, burst)], per_minute)


@given(LIMITS, ARRIVALS, st.integers(1, 30))
def test_who_waits_as_long_as_told_gets_in_and_not_before(per_minute, arrivals, count):
    pace = Pace(per_minute, burst_of(per_minute))
    run(pace, arrivals)
    now_us = pace.at_us
    wait = pace.wait_us(count)

    assert (wait == 0) == pace.has_room(count, now_us)
    if wait:
        assert not pace.has_room(count, now_us + wait - 1)
    assert pace.has_room(count, now_us + wait)
    # And that is never more than a minute, for what a minute allows.
    if count <= per_minute:
        assert wait <= MINUTE_US


@given(LIMITS)
def test_a_minutes_worth_gets_in_when_nothing_is_owed(per_minute):
    pace = Pace(per_minute, burst_of(per_minute))

    assert pace.has_room(per_minute, 1)
    pace.take(per_minute)
    assert not pace.has_room(1, 1)


@given(LIMITS, st.lists(st.integers(1, 5), min_size=1, max_size=50))
def test_greedy_caller_gets_the_whole_rate(per_minute, counts):
    """Whoever comes exactly when told loses nothing to rounding."""
    pace = Pace(per_minute, burst_of(per_minute))
    now_us, taken = 1, 0
    for one in counts:
        now_us += pace.wait_us(one)
        assert pace.has_room(one, now_us)
        pace.take(one)
        taken += one

    # A microsecond of waiting at most is lost with each.
    fair = burst_of(per_minute) * SLOT + (now_us - 1) * per_minute
    assert taken * SLOT >= fair - (max(counts) + burst_of(per_minute)) * SLOT - (
        len(counts) * per_minute
    )


@given(LIMITS, ARRIVALS)
def test_clock_that_goes_back_gives_nothing_and_locks_nobody_out(per_minute, arrivals):
    pace = Pace(per_minute, burst_of(per_minute))
    run(pace, arrivals)
    debt = pace.debt

    pace.has_room(1, -(10**15))
    assert pace.debt == debt
    assert pace.has_room(1, -(10**15) + MINUTE_US)


@pytest.mark.parametrize(
    ("_per_minute", "_burst"),
    [(1, 1), (5, 5), (9, 9), (10, 10), (11, 10), (100, 10), (109, 10), (110, 11), (600, 60)],
)
def test_burst_is_a_tenth_but_at_least_ten_or_all(_per_minute, _burst):
    assert burst_of(_per_minute) == _burst


def test_wait_and_room_agree_at_the_edge():
    assert has_room(4 * SLOT, 1, 5)
    assert not has_room(4 * SLOT + 1, 1, 5)
    assert wait_us(4 * SLOT + 1, 1, 5, 60) == 1
    assert wait_us(5 * SLOT, 1, 5, 60) == 1_000_000
