"""Places in what a prediction has said, and how many watch at a time."""

from __future__ import annotations

import contextlib

import pytest

from inference.gateway.config import WATCHES_MAX, WATCHES_PER_ACCOUNT_MAX
from inference.gateway.errors import CapacityError, ConcurrencyLimitedError, EventIdInvalidError
from inference.gateway.job_watch import Cursor, JobWatches
from marketplace.core.ids import new_id


@pytest.fixture
def watches() -> JobWatches:
    return JobWatches(None, None, None, None)


@pytest.mark.parametrize("mark", ["00000000", "deadbeef", "end"])
def test_a_place_is_read_as_it_was_written(mark):
    cursor = Cursor(new_id(), 3, 2_000_000, mark)

    assert Cursor.parse(cursor.prediction_id, str(cursor)) == cursor
    assert cursor.is_end == (mark == "end")
    assert Cursor.parse(cursor.prediction_id, None) == Cursor(cursor.prediction_id)
    with pytest.raises(EventIdInvalidError, match="another"):
        Cursor.parse(new_id(), str(cursor))


def test_an_account_has_so_many_places_and_gets_them_back(watches):
    account_id = new_id()
    with contextlib.ExitStack() as stack:
        for _ in range(WATCHES_PER_ACCOUNT_MAX):
            stack.enter_context(watches.place(account_id))
        with pytest.raises(ConcurrencyLimitedError), watches.place(account_id):
            pass
        with watches.place(new_id()):
            assert watches.count == WATCHES_PER_ACCOUNT_MAX + 1
    with watches.place(account_id):
        assert watches.count == 1


def test_a_process_has_so_many_places(watches):
    with contextlib.ExitStack() as stack:
        for _ in range(WATCHES_MAX):
            stack.enter_context(watches.place(new_id()))
        with pytest.raises(CapacityError), watches.place(new_id()):
            pass
    assert watches.count == 0
