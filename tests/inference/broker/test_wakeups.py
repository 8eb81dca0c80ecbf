"""A node that waits at one gateway hears of work that came to another one, by the gateways' rights.

Without it everybody looks once a second, which no other test would notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from inference.broker import wakeups
from inference.broker.wakeups import Wakeups
from marketplace.core.ids import new_id
from tests import servers

# Nobody looks by himself within it.
FOR_EVER_S = 600.0
_HEARD_WITHIN_S = 60.0
_NOT_HEARD_S = 1.0


@pytest.fixture(autouse=True)
def _nobody_looks(monkeypatch) -> None:
    monkeypatch.setattr(wakeups, "LOOK_S", FOR_EVER_S)


@pytest.fixture
def run() -> Iterator:
    with asyncio.Runner() as runner:
        yield runner.run


async def is_told(teller_url: str | None, hearer_url: str | None, *, within_s: float) -> bool:
    """Whether one of two processes hears of what is told at the other, again and again."""
    teller, hearer = Wakeups(teller_url), Wakeups(hearer_url)
    for one in (teller, hearer):
        one.start()
    version_id = new_id()
    waiting = asyncio.create_task(hearer.wait(FOR_EVER_S, [version_id]))
    try:
        async with asyncio.timeout(within_s):
            while not waiting.done():
                # Who has only just begun to listen hears what comes after.
                await teller.tell(version_id)
                await asyncio.sleep(0.05)
        return True
    except TimeoutError:
        return False
    finally:
        waiting.cancel()
        for one in (teller, hearer):
            await one.close()


def test_gateways_tell_each_other_of_work(run, redis_client):
    url = servers.provide().gateway_redis_url

    assert run(is_told(url, url, within_s=_HEARD_WITHIN_S))


@pytest.mark.parametrize("deaf", ["teller", "hearer"])
def test_who_has_no_redis_is_not_heard(run, redis_client, deaf):
    """So that the test above is known to notice."""
    url = servers.provide().gateway_redis_url
    urls = (None, url) if deaf == "teller" else (url, None)

    assert not run(is_told(*urls, within_s=_NOT_HEARD_S))


def wake_among(run, kinds: list[list], *told) -> list[int]:
    """The numbers of those that were woken, in a process where each kind of node waits."""

    async def go() -> list[int]:
        wakeups = Wakeups(None)
        waiting = [asyncio.create_task(wakeups.wait(FOR_EVER_S, one)) for one in kinds]
        await asyncio.sleep(0)
        for one in told:
            await wakeups.tell(one)
        for _ in range(5):
            await asyncio.sleep(0)
        woken = [number for number, one in enumerate(waiting) if one.done()]
        for one in waiting:
            one.cancel()
        return woken

    return run(go())


def test_of_many_that_wait_one_is_woken_for_each_job(run):
    a, b = new_id(), new_id()
    kinds = [[b], [a], [a, b], [a], [b]]

    assert wake_among(run, kinds, a) == [1]
    assert wake_among(run, kinds, a, a) == [1, 2]
    assert wake_among(run, kinds, b, a) == [0, 1]
    assert wake_among(run, kinds, new_id()) == []
    # Nobody knows of what: one of each kind.
    assert wake_among(run, kinds, None) == [0, 1, 2]


def test_who_looks_is_one_of_each_kind(run, monkeypatch):
    monkeypatch.setattr(wakeups, "LOOK_S", 0.01)
    a = new_id()

    async def go() -> list[bool]:
        made = Wakeups(None)
        waiting = [asyncio.create_task(made.wait(FOR_EVER_S, [a])) for _ in range(3)]
        await asyncio.sleep(0)
        made.start()
        await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
        found = [one.done() for one in waiting]
        await made.close()
        for one in waiting:
            one.cancel()
        return found

    assert run(go()) == [True, False, False]


def test_a_burst_wakes_as_many_as_it_has_jobs_though_one_was_told(plain_queue):
    """Each that found one wakes the next; the last finds nothing, and the rest sleep on."""
    queue = plain_queue
    asked = []

    async def work(node) -> bool:
        await queue.broker.wait_for_work(5.0, [queue.version.pk])
        asked.append(node)
        return await queue.broker.claim(node, 0, [queue.version.pk]) is not None

    async def go() -> list[bool]:
        waiting = [asyncio.create_task(work(new_id())) for _ in range(10)]
        await asyncio.sleep(0)
        jobs = [queue.make() for _ in range(4)]
        tell, queue.broker.wakeups.tell = queue.broker.wakeups.tell, _tell_nobody
        for one in jobs:
            await queue.broker.submit(one)
        await tell(queue.version.pk)
        await asyncio.sleep(1.0)
        asked_count.append(len(asked))
        return await asyncio.gather(*waiting)

    asked_count: list[int] = []
    assert sum(queue.run(go())) == 4
    assert asked_count == [5]


async def _tell_nobody(_version_id) -> None:
    pass
