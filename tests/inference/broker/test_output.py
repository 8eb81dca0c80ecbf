"""The log of what jobs say, in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import pytest

from embedded import ports
from inference.broker.output import (
    BYTES_MAX,
    CHUNKS_MAX,
    KEPT_AFTER_END_S,
    KEPT_S,
    PREFIX,
    Outputs,
)
from marketplace.core.ids import new_id
from tests import servers

T = TypeVar("T")


@dataclass
class Log:
    outputs: Outputs
    runner: asyncio.Runner
    job_id: UUID
    patience_s: float = 30.0

    def run(self, what: Awaitable[T]) -> T:
        async def wait() -> T:
            return await what

        return self.runner.run(wait())

    def say(self, number: int, *chunks: str, epoch: int = 1) -> tuple[str, int]:
        """What `append` answers, while there is a Redis; on a slow machine it may seem away."""
        ends_s = time.monotonic() + self.patience_s
        while True:
            told = self.run(self.outputs.append(self.job_id, epoch, number, chunks))
            if told[0] != "away" or time.monotonic() >= ends_s:
                return told
            time.sleep(0.1)

    def read(self, after: str = "0-0", timeout_s: float = 5.0) -> list[tuple[int, int, str]]:
        found = self.run(self.outputs.read(self.job_id, after, timeout_s))
        return [(one.epoch, one.start, one.text) for one in found]


@pytest.fixture
def make(redis_client) -> Iterator[Callable[..., Log]]:
    with asyncio.Runner() as runner:
        made: list[Outputs] = []

        def start(url: str | None = "", **limits: Any) -> Log:
            # As the gateway's own user: what it may not do fails here.
            address = servers.provide().gateway_redis_url if url == "" else url
            outputs = Outputs(address, **limits)

            async def begin() -> None:
                outputs.start()

            runner.run(begin())
            made.append(outputs)
            return Log(outputs, runner, new_id())

        yield start
        for one in made:
            runner.run(one.close())


@pytest.fixture
def log(make) -> Log:
    return make()


def test_what_is_said_is_read_with_its_place(log):
    assert log.say(0, "a", "bç") == ("kept", 2)
    assert log.say(2, "d") == ("kept", 3)

    assert log.read() == [(1, 0, "a"), (1, 1, "bç"), (1, 3, "d")]
    assert log.read("1-2") == [(1, 3, "d")]
    assert log.read("1-3", 0.3) == []


def test_what_comes_again_is_kept_once_and_what_comes_early_is_not(log):
    log.say(0, "a", "b")

    assert log.say(0, "a", "b", "c") == ("kept", 3)
    assert log.say(4, "e") == ("gap", 3)
    assert log.say(0, "x") == ("kept", 3)
    assert [one[2] for one in log.read()] == ["a", "b", "c"]


def test_a_new_lease_begins_anew_and_an_old_one_is_not_heard(log):
    log.say(0, "a", "b")

    assert log.say(1, "x", epoch=2) == ("gap", 0)
    assert log.say(0, "x", epoch=2) == ("kept", 1)
    assert log.say(2, "c", epoch=1) == ("stale", 0)
    assert log.read() == [(2, 0, "x")]


def test_who_waits_is_told_at_once_and_of_the_end(log):
    async def wait() -> tuple[list[str], list[str]]:
        reading = asyncio.create_task(log.outputs.read(log.job_id, "0-0", 20))
        await asyncio.sleep(0.3)
        await log.outputs.append(log.job_id, 1, 0, ["a"])
        first = await reading
        reading = asyncio.create_task(log.outputs.read(log.job_id, first[-1].place, 20))
        await log.outputs.end(log.job_id, 1)
        return [one.text for one in first], [one.text for one in await reading]

    assert log.run(wait()) == (["a"], [""])
    # Nothing is said after that.
    assert log.say(1, "b")[0] == "kept"
    assert [one[2] for one in log.read()] == ["a", ""]


def test_so_many_chunks_are_kept(make):
    log = make(chunks_max=3)

    assert log.say(0, "a", "b", "c") == ("kept", 3)
    assert log.say(3, "d") == ("full", 3)
    assert log.say(0, "a") == ("kept", 3)
    assert len(log.read()) == 3


def test_so_many_bytes_are_kept(make):
    log = make(bytes_max=6)

    assert log.say(0, "éé", "ab") == ("kept", 2)
    assert log.say(2, "c") == ("full", 2)
    other = make(bytes_max=6)
    assert other.say(0, "éé", "abc") == ("full", 1)


def test_the_limits_are_those_that_are_told(log):
    assert (CHUNKS_MAX, BYTES_MAX) == (10_000, 1024 * 1024)
    assert log.outputs._limits == (CHUNKS_MAX, BYTES_MAX)


def test_nothing_is_kept_for_ever(log, redis_client):
    key = f"{PREFIX}{log.job_id}"
    log.say(0, "a")
    assert 0 < redis_client.ttl(key) <= KEPT_S
    assert redis_client.ttl(key) > KEPT_AFTER_END_S

    log.run(log.outputs.end(log.job_id, 1))

    assert 0 < redis_client.ttl(key) <= KEPT_AFTER_END_S


def test_scripts_that_were_flushed_are_sent_again(log, redis_client):
    log.say(0, "a")
    redis_client.script_flush()

    assert log.say(1, "b") == ("kept", 2)


@pytest.mark.parametrize("url", [None, "closed"])
def test_without_redis_nothing_is_kept_and_nobody_waits(make, url):
    log = make(url and f"redis://127.0.0.1:{ports.choose()}/0")
    log.patience_s = 0.0

    assert log.say(0, "a") == ("away", 0)
    log.run(log.outputs.end(log.job_id, 1))
    assert log.read(timeout_s=0.2) == []


def test_all_that_was_said_is_read_at_once(log, monkeypatch):
    monkeypatch.setattr("inference.broker.output.PAGE_MAX", 2)
    log.say(0, "a", "bç", "d", "e", "f")

    assert log.run(log.outputs.read_text(log.job_id, 1, 100)) == "abçdef"
    # So many characters and no more.
    assert log.run(log.outputs.read_text(log.job_id, 1, 6)) == "abçdef"
    assert log.run(log.outputs.read_text(log.job_id, 1, 5)) == "abçde"
    # Of this lease, and of no other.
    assert log.run(log.outputs.read_text(log.job_id, 2, 100)) == ""
    log.say(0, "x", epoch=2)
    assert log.run(log.outputs.read_text(log.job_id, 2, 100)) == "x"
    assert log.run(log.outputs.read_text(log.job_id, 1, 100)) == ""
    # Its end says nothing.
    log.run(log.outputs.end(log.job_id, 2))
    assert log.run(log.outputs.read_text(log.job_id, 2, 100)) == "x"


@pytest.mark.parametrize(("lost", "text"), [("1-1", ""), ("1-2", "a"), ("1-3", "abc")])
def test_what_lacks_a_piece_is_read_up_to_there(log, redis_client, lost, text):
    log.say(0, "a", "bc", "d")
    assert redis_client.xdel(f"{PREFIX}{log.job_id}", lost) == 1

    assert log.run(log.outputs.read_text(log.job_id, 1, 100)) == text


@pytest.mark.parametrize("url", [None, "closed"])
def test_without_redis_nothing_is_read(make, url):
    log = make(url and f"redis://127.0.0.1:{ports.choose()}/0")

    assert log.run(log.outputs.read_text(log.job_id, 1, 100)) == ""
