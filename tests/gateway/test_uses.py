"""What is used is told often enough that it is not unloaded, and no more often."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from inference.gateway.config import USE_NOTED_S
from inference.gateway.database import DatabaseUnavailableError
from inference.gateway.waking import Uses
from inference.models.node import IDLE_AFTER_MIN_S
from marketplace.core.ids import new_id


class Recorder:
    """Takes what is written; or does not, as a Postgres that is away."""

    def __init__(self) -> None:
        self.told: list[list[object]] = []
        self.is_away = False

    async def write(self, _query, parameters):
        if self.is_away:
            raise DatabaseUnavailableError
        self.told += parameters
        return []


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def flush(uses: Uses) -> None:
    asyncio.run(uses.flush())


def test_a_version_is_told_once_in_its_time(clock):
    database = Recorder()
    uses, version_id = Uses(database), new_id()
    for second in range(121):
        clock[0] = 1000.0 + second
        uses.note(version_id)
        flush(uses)

    assert database.told == [[version_id]] * 5


def test_what_runs_on_is_told_again_before_it_can_be_unloaded(clock):
    """A prediction that takes ten minutes, of a version with the shortest idle time."""
    database = Recorder()
    uses, version_id = Uses(database), new_id()
    told_s = []
    for second in range(600):
        clock[0] = 1000.0 + second
        uses.note_all([version_id, version_id])
        flush(uses)
        if len(database.told) > len(told_s):
            told_s.append(second)

    gaps = [after - before for before, after in itertools.pairwise(told_s)]
    assert max(gaps) == USE_NOTED_S < IDLE_AFTER_MIN_S


def test_what_could_not_be_told_is_told_later(clock):
    database = Recorder()
    uses, first, second = Uses(database), new_id(), new_id()
    database.is_away = True
    uses.note(first)
    flush(uses)
    assert database.told == []

    database.is_away = False
    uses.note(second)
    flush(uses)

    assert [set(told) for told in database.told] == [{first, second}]


def test_versions_that_are_used_no_more_are_forgotten(clock):
    uses = Uses(Recorder())
    for _ in range(100):
        uses.note(new_id())
    clock[0] += USE_NOTED_S + 1

    flush(uses)

    assert uses._noted_s == {}
