"""Requests that share a call: who goes with whom, and that nobody suffers for another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inference.gateway.coalesce import Coalescer
from inference.triton.errors import (
    ModelExecutionError,
    OutputError,
    QueueFullError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import Tensor

BAD = -1.0


class Replica:
    """Doubles x; fails on calls that hold a bad value; answers only when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.gate = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.answer: Callable[[np.ndarray], np.ndarray] = lambda x: 2 * x
        self.keep: Any = None

    async def __call__(self, tensors, /, *, deadline_s, keep_slot):
        [x] = tensors
        assert x.shape == x.data.shape
        self.calls.append(x.data.ravel().tolist())
        self.keep = keep_slot
        await self.gate.acquire()
        if self.error is not None:
            raise self.error
        if BAD in x.data:
            raise ModelExecutionError
        return {"y": self.answer(x.data)}


def row(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, np.float32).reshape(shape or (len(values), 1))
    return Tensor("x", "FP32", data.shape, data)


def ask(calls: Coalescer, replica: Replica, x: Tensor, *, within_s: float = 5.0):
    infer = calls.infer(replica, [x], deadline_s=time.monotonic() + within_s, on_start=lambda: None)
    return asyncio.create_task(infer)


async def turn() -> None:
    """Let everything that can run now do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def collect(*tasks: asyncio.Task) -> list[Any]:
    """The answers as lists, the errors as their types."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, Exception) else one["y"].ravel().tolist() for one in found]


def test_a_lone_request_goes_at_once_and_as_it_is():
    async def run():
        calls, replica = Coalescer(8, calls_max=2), Replica()
        replica.gate.release()
        assert await collect(ask(calls, replica, row(1))) == [[2]]
        assert replica.calls == [[1]]
        assert calls.load == 0

    asyncio.run(run())


def test_what_comes_at_the_same_moment_or_while_calls_run_goes_together():
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        first = [ask(calls, replica, row(one)) for one in (1, 2)]
        await turn()
        later = [ask(calls, replica, row(one)) for one in (3, 4, 5)]
        await turn()
        assert (replica.calls, calls.load) == ([[1, 2]], 5)
        replica.gate.release()
        await turn()
        replica.gate.release()
        # Each gets its own rows back.
        assert await collect(*first, *later) == [[2], [4], [6], [8], [10]]
        assert replica.calls == [[1, 2], [3, 4, 5]]
        assert calls.load == 0

    asyncio.run(run())


def test_a_call_has_as_many_rows_as_the_model_takes_and_no_more():
    async def run():
        calls, replica = Coalescer(4, calls_max=1), Replica()
        asked = [ask(calls, replica, row(*values)) for values in ([1, 2], [3, 4], [5], [6, 7, 8])]
        for _ in range(3):
            replica.gate.release()
        assert await collect(*asked) == [[2, 4], [6, 8], [10], [12, 14, 16]]
        assert replica.calls == [[1, 2, 3, 4], [5, 6, 7, 8]]
        # One that is larger than that by itself is the model server's to refuse.
        replica.gate.release()
        assert await collect(ask(calls, replica, row(1, 2, 3, 4, 5))) == [[2, 4, 6, 8, 10]]

    asyncio.run(run())


def test_only_equal_shapes_go_together_and_nobody_is_overtaken_for_long():
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        wide = row(7, 8, shape=(1, 2))
        asked = [ask(calls, replica, one) for one in (row(1), wide, row(2))]
        replica.gate.release()
        replica.gate.release()
        assert await collect(*asked) == [[2], [14, 16], [4]]
        assert replica.calls == [[1, 2], [7, 8]]

    asyncio.run(run())


def test_a_version_that_does_not_coalesce_gets_every_request_alone():
    async def run():
        calls, replica = Coalescer(1, calls_max=2), Replica()
        asked = [ask(calls, replica, row(one)) for one in (1, 2, 3)]
        await turn()
        assert replica.calls == [[1], [2]]
        for _ in asked:
            replica.gate.release()
        assert await collect(*asked) == [[2], [4], [6]]

    asyncio.run(run())


def bad_neighbour() -> list[Any]:
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        asked = [ask(calls, replica, row(one)) for one in (1, BAD, 3)]
        for _ in range(4):
            replica.gate.release()
        found = await collect(*asked)
        assert (calls.load, calls.running) == (0, 0)
        return found

    return asyncio.run(run())


def test_a_bad_neighbour_fails_alone():
    assert bad_neighbour() == [[2], ModelExecutionError, [6]]


def test_without_the_repeats_all_would_fail(monkeypatch):
    """The negative control of the test above."""
    monkeypatch.setattr("inference.gateway.coalesce.INFRASTRUCTURE_ERRORS", (Exception,))

    assert bad_neighbour() == [ModelExecutionError] * 3


def test_an_answer_with_other_rows_is_not_handed_out():
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        replica.answer = lambda x: x[:1] * 2 if len(x) > 1 else x * 2
        asked = [ask(calls, replica, row(one)) for one in (1, 2)]
        for _ in range(3):
            replica.gate.release()
        assert await collect(*asked) == [[2], [4]]
        assert replica.calls == [[1, 2], [1], [2]]

    asyncio.run(run())


def test_when_the_server_is_gone_everybody_hears_it_for_themselves():
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        replica.error = TritonUnavailableError("It is gone.", retry_after_s=1)
        asked = [ask(calls, replica, row(one)) for one in (1, 2)]
        replica.gate.release()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [(type(one), one.detail, one.retry_after_s) for one in found] == [
            (TritonUnavailableError, "It is gone.", 1)
        ] * 2
        assert found[0] is not found[1]
        # It goes to another replica, not here again.
        assert replica.calls == [[1, 2]]

    asyncio.run(run())


def test_the_line_is_as_long_as_it_may_be_and_who_leaves_makes_room():
    async def run():
        calls, replica = Coalescer(1, calls_max=1, waiting_max=2), Replica()
        running = ask(calls, replica, row(1))
        await turn()
        waiting = [ask(calls, replica, row(one)) for one in (2, 3)]
        await turn()
        assert await collect(ask(calls, replica, row(4))) == [QueueFullError]
        waiting[0].cancel()
        await turn()
        for _ in range(2):
            replica.gate.release()
        assert await collect(running, waiting[1]) == [[2], [6]]
        assert replica.calls == [[1], [3]]

    asyncio.run(run())


def test_who_leaves_the_line_makes_room_at_once():
    async def run():
        calls, replica = Coalescer(1, calls_max=1, waiting_max=1), Replica()
        running = ask(calls, replica, row(1))
        await turn()
        assert await collect(ask(calls, replica, row(2), within_s=0.01)) == [TritonDeadlineError]
        late = ask(calls, replica, row(3))
        await turn()
        for _ in range(2):
            replica.gate.release()
        assert await collect(running, late) == [[2], [6]]
        assert replica.calls == [[1], [3]]

    asyncio.run(run())


def test_a_call_that_was_given_up_keeps_its_place_until_the_server_has_ended_it():
    async def run():
        calls, replica = Coalescer(1, calls_max=1), Replica()
        given_up = ask(calls, replica, row(1), within_s=0.01)
        await turn()
        leave = replica.keep()
        replica.gate.release()
        assert await collect(given_up) in ([[2]], [TritonDeadlineError])
        waits = ask(calls, replica, row(2))
        await turn()
        assert (replica.calls, calls.running) == ([[1]], 1)
        leave()
        replica.gate.release()
        assert await collect(waits) == [[4]]

    asyncio.run(run())


def test_a_request_starts_when_it_leaves_and_not_when_it_comes():
    async def run():
        calls, replica, started = Coalescer(1, calls_max=1), Replica(), []
        running = ask(calls, replica, row(1))
        await turn()
        infer = calls.infer(
            replica,
            [row(2)],
            deadline_s=time.monotonic() + 5,
            on_start=lambda: started.append(len(replica.calls)),
        )
        waits = asyncio.create_task(infer)
        await turn()
        assert started == []
        for _ in range(2):
            replica.gate.release()
        assert await collect(running, waits) == [[2], [4]]
        assert started == [1]

    asyncio.run(run())


@pytest.mark.parametrize("error", [OutputError, RuntimeError])
def test_whatever_a_call_raises_somebody_hears_it(error):
    async def run():
        calls, replica = Coalescer(8, calls_max=1), Replica()
        replica.error = error("x")
        replica.gate.release()
        assert await collect(ask(calls, replica, row(1))) == [error]
        assert calls.running == 0

    asyncio.run(run())


class Batcher(Replica):
    """A server that joins the calls that are there at the same time, as Triton's batcher does."""

    def __init__(self) -> None:
        super().__init__()
        self.here: list[np.ndarray] = []

    async def __call__(self, tensors, /, *, deadline_s, keep_slot):
        [x] = tensors
        joined = self.here
        joined.append(x.data)
        self.calls.append(x.data.ravel().tolist())
        # Who comes within this time is run together.
        await asyncio.sleep(0.02)
        if joined is self.here:
            self.here = []
        if any(BAD in data for data in joined):
            raise ModelExecutionError
        return {"y": self.answer(x.data)}


def test_nobody_fails_by_a_call_that_the_server_joined_with_theirs():
    async def run():
        calls, replica = Coalescer(2, calls_max=2), Batcher()
        asked = [ask(calls, replica, row(one)) for one in (1, 2, 3, BAD, 4)]
        assert await collect(*asked) == [[2], [4], [6], ModelExecutionError, [8]]
        # A lone one, too, that met a bad one there.
        lone = Coalescer(1 + 1, calls_max=2)
        good = ask(lone, replica, row(5, 6))
        bad = ask(lone, replica, row(BAD, 7))
        assert await collect(good, bad) == [[10, 12], ModelExecutionError]
        assert (calls.load, calls.running, lone.load, lone.running) == (0, 0, 0, 0)

    asyncio.run(run())


def test_repeats_side_by_side_would_fail_each_other(monkeypatch):
    """The negative control: without the pause the server joins the repeats with other calls."""

    async def repeat_at_once(self, batch):
        await asyncio.gather(*(self._answer_alone(one) for one in batch))

    monkeypatch.setattr(Coalescer, "_repeat", repeat_at_once)
    with pytest.raises(AssertionError):
        test_nobody_fails_by_a_call_that_the_server_joined_with_theirs()


def test_a_bad_call_that_had_no_company_is_not_repeated():
    async def run():
        calls, replica = Coalescer(2, calls_max=2), Batcher()
        assert await collect(ask(calls, replica, row(BAD))) == [ModelExecutionError]
        assert replica.calls == [[BAD]]

    asyncio.run(run())
