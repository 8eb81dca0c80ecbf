"""Copies rise with the load at once, and fall slowly."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.core import copies, scaling
from inference.core.copies import WINDOW_S, CopyLimits, VersionLoad

LIMITS = CopyLimits(requests=4, wait_s=30, count_max=8)


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (VersionLoad(), 1),
        (VersionLoad(requests=4), 1),
        (VersionLoad(requests=4.001), 2),
        (VersionLoad(requests=8), 2),
        (VersionLoad(requests=32), 8),
        (VersionLoad(requests=33), 8),
        (VersionLoad(waiting_s=30), 1),
        (VersionLoad(waiting_s=30.1), 2),
        (VersionLoad(waiting_s=30, busy_count=1), 2),
        (VersionLoad(requests=4, waiting_s=30, busy_count=1), 3),
    ],
)
def test_a_copy_for_what_it_bears(load, count):
    assert copies.want_copies(load, least=1, nodes=20, limits=LIMITS) == count


@pytest.mark.parametrize(
    ("least", "nodes", "count"), [(1, 0, 1), (1, 1, 1), (1, 3, 3), (3, 1, 3), (9, 20, 9)]
)
def test_as_many_as_there_are_nodes_and_never_fewer_than_the_owner_wants(least, nodes, count):
    load = VersionLoad(requests=12)
    assert copies.want_copies(load, least=least, nodes=nodes, limits=LIMITS) == count


def run(wanted: list[int], step_s: float, have: int = 1, window_s: float = WINDOW_S) -> list[int]:
    """How many copies there are after each look."""
    wishes: tuple[scaling.Wish, ...] = ()
    found = []
    for number, one in enumerate(wanted):
        if window_s == WINDOW_S:
            wishes = copies.keep_copies(wishes, one, now_s=number * step_s, have=have)
        else:
            wishes = scaling.keep_wishes(wishes, scaling.Wish(number * step_s, one), window_s)
        have = scaling.choose_nodes(wishes)
        found.append(have)
    return found


def test_more_at_once_and_fewer_after_the_window():
    # Looks every 10 s: the last wish for 3 is that of 10 s, which counts until 600 s later.
    found = run([1, 3, *[1] * 60], 10)
    assert found[1:61] == [3] * 60
    assert found[61] == 1


def test_bursts_do_not_flap_and_without_a_window_they_would():
    bursts = [4 if number % 6 == 0 else 1 for number in range(120)]

    def count_changes(found: list[int]) -> int:
        return sum(one != other for one, other in itertools.pairwise(found))

    assert count_changes(run(bursts, 10)) == 0
    # The control.
    assert count_changes(run(bursts, 10, window_s=1)) > 30


def test_who_starts_anew_takes_nothing_away():
    assert run([1, 1], 10, have=5) == [5, 5]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=50),
    st.integers(1, 16),
    st.integers(0, 20),
    st.floats(0.1, 900),
)
def test_bounds_hold_and_nothing_falls_within_the_window(requests, least, nodes, step_s):
    wanted = [
        copies.want_copies(VersionLoad(one), least=least, nodes=nodes, limits=LIMITS)
        for one in requests
    ]
    found = run(wanted, step_s, have=least)

    for number, (one, have) in enumerate(zip(wanted, found, strict=True)):
        assert least <= have <= max(least, min(LIMITS.count_max, nodes))
        assert have >= one
        recent = [
            count
            for place, count in enumerate(wanted[: number + 1])
            if number * step_s - place * step_s < WINDOW_S
        ]
        if number * step_s >= WINDOW_S:
            assert have == max(recent)
