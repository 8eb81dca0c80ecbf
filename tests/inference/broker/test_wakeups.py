"""A node that waits at one gateway hears of work that came to another one, by the gateways' rights.

Without it everybody looks once a second, which no other test would notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from inference.broker import wakeups
from inference.broker.wakeups import Wakeups
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
    waiting = asyncio.create_task(hearer.wait(FOR_EVER_S))
    try:
        async with asyncio.timeout(within_s):
            while not waiting.done():
                # Who has only just begun to listen hears what comes after.
                await teller.tell()
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
