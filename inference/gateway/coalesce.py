"""Requests that wait for the same replica go to it in one call.

There is no timer: while calls run at the replica, what comes meanwhile gathers, and leaves
together when one of them ends. A lone request waits for nobody. A call that the model fails
on is repeated request by request, with nothing else at the replica, so that nobody pays for, or
fails by, a neighbour's input.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from inference.gateway.config import (
    PACE_OUTLIER_FACTOR,
    PACE_TTL_S,
    PACE_WEIGHT,
    RETRY_AFTER_MAX_S,
    WAITING_MAX,
)
from inference.gateway.errors import CapacityError, copy_for_another
from inference.gateway.time_limit import TimeLimit
from inference.gateway.triton_pool import INFRASTRUCTURE_ERRORS, KeepSlot
from inference.triton.errors import OutputError, QueueFullError, TritonDeadlineError
from inference.triton.tensors import Tensor

Outputs = Mapping[str, np.ndarray]

_RETRY_S = 1


class Send(Protocol):
    """One call of the replica."""

    async def __call__(
        self, tensors: Sequence[Tensor], /, *, deadline_s: float, keep_slot: KeepSlot
    ) -> Outputs: ...


@dataclass(slots=True, eq=False)
class _Item:
    """A request that waits for its outputs."""

    tensors: Sequence[Tensor]
    send: Send
    deadline_s: float
    on_start: Callable[[], None]
    outputs: asyncio.Future[Outputs]
    is_waiting: bool = True
    rows: int = field(init=False)
    fit: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.tensors[0].shape[0]
        # Requests of the same fit can be joined along the first axis.
        self.fit = tuple(one.shape[1:] for one in self.tensors)


class Coalescer:
    """The calls of one replica.

    Args:
        rows_max: Of one call of several requests. 1: each goes alone.
        calls_max: Calls that may be at the replica.
        waiting_max: Requests that may wait.
        on_call: Called with the requests and the rows of each call that leaves.
    """

    def __init__(
        self,
        rows_max: int,
        *,
        calls_max: int,
        waiting_max: int = WAITING_MAX,
        on_call: Callable[[int, int], None] | None = None,
    ) -> None:
        self.rows_max = rows_max
        self.calls_max = calls_max
        self.waiting_max = waiting_max
        self.on_call = on_call
        self.running = 0
        # Requests that were admitted and are not in the line yet.
        self.coming = 0
        # What the replica takes for a call when it has no others; 0 until one has ended.
        self.pace_s = 0.0
        self._ended_s = 0.0
        self._measured = 0
        self._requests_running = 0
        self._waiting: deque[_Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_woken = False
        # Calls at the replica that are waited for, and how many there have been.
        self._sending = 0
        self._begun = 0
        # While some are repeated alone nothing else begins.
        self._repeating = 0
        self._repeats = asyncio.Lock()
        self._is_quiet = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def load(self) -> int:
        """Requests that run, wait or come."""
        return self._requests_running + len(self._waiting) + self.coming

    def expect_s(self, *, calls: int = 1) -> float:
        """When a request that comes now would have its answer; 0 if nothing is known.

        A replica's pace is what passes between the ends of two calls while it is busy, so
        that it holds for servers that run one call at a time as for those that run several.
        """
        waiting = -(-(len(self._waiting) + self.coming) // self.rows_max)
        ahead = self.running + waiting
        if not ahead and time.monotonic() - self._ended_s > PACE_TTL_S:
            return 0.0
        return self.pace_s * (ahead + calls)

    def admit(self, deadline_s: float, *, calls: int = 1) -> None:
        """Let a request in that can be answered in time; `arrive` has to follow.

        One that would meet an idle replica is always let in: what was measured may be wrong.

        Args:
            deadline_s: On the clock of `time.monotonic`.
            calls: That the request takes, one after the other.

        Raises:
            QueueFullError: Too many wait already.
            CapacityError: Its time would be over first.
        """
        if self.running or self.load:
            if len(self._waiting) + self.coming >= self.waiting_max:
                raise QueueFullError(retry_after_s=_RETRY_S)
            late_s = time.monotonic() + self.expect_s(calls=calls) - deadline_s
            if late_s > 0:
                raise CapacityError(
                    "The requests that wait already take longer than this one has time.",
                    retry_after_s=min(math.ceil(late_s), RETRY_AFTER_MAX_S),
                )
        self.coming += 1

    def arrive(self) -> None:
        """An admitted request comes into the line now, or never."""
        self.coming -= 1

    async def infer(
        self,
        send: Send,
        tensors: Sequence[Tensor],
        *,
        deadline_s: float,
        on_start: Callable[[], None],
        on_wait: Callable[[asyncio.Future[Outputs]], None] | None = None,
    ) -> Outputs:
        """The outputs of one request.

        Args:
            send: Makes a call with the tensors of one or more requests.
            tensors: All inputs, rows first.
            deadline_s: On the clock of `time.monotonic`.
            on_start: Called when the request leaves for the replica.
            on_wait: Called with what is waited for: whoever fails that gives the request up.

        Raises:
            QueueFullError: Too many wait already.
            TritonDeadlineError: Time is up.
            MarketplaceError: What `send` raised for this request.
        """
        loop = asyncio.get_running_loop()
        item = _Item(tensors, send, deadline_s, on_start, loop.create_future())
        self._line_up(item, loop)
        if on_wait is not None:
            on_wait(item.outputs)
        try:
            with TimeLimit(deadline_s - time.monotonic()):
                return await item.outputs
        except TimeoutError:
            raise TritonDeadlineError from None
        finally:
            item.outputs.cancel()
            if item.is_waiting:
                self._waiting.remove(item)

    @asynccontextmanager
    async def place(self, tensors: Sequence[Tensor], *, deadline_s: float) -> AsyncIterator[None]:
        """A place at the replica for as long as the block runs, for a call that streams.

        Raises:
            QueueFullError: Too many wait already.
            TritonDeadlineError: Time is up.
        """
        assert self.rows_max == 1, "a call that streams is not joined with others"
        loop = asyncio.get_running_loop()
        is_given: asyncio.Future[None] = loop.create_future()
        is_left: asyncio.Future[Outputs] = loop.create_future()

        async def stay(_: Sequence[Tensor], /, **__: object) -> Outputs:
            return await is_left

        def give() -> None:
            if not is_given.done():
                is_given.set_result(None)

        item = _Item(tensors, stay, deadline_s, give, loop.create_future())
        self._line_up(item, loop)
        try:
            try:
                with TimeLimit(deadline_s - time.monotonic()):
                    await is_given
            except TimeoutError:
                raise TritonDeadlineError from None
            yield
        finally:
            is_left.set_result({})
            if item.is_waiting:
                self._waiting.remove(item)

    def _line_up(self, item: _Item, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._waiting) >= self.waiting_max:
            raise QueueFullError(retry_after_s=_RETRY_S)
        self._waiting.append(item)
        self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for work soon: what else came at this moment joins."""
        if not self._is_woken:
            self._is_woken = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        self._is_woken = False
        while not self._repeating and self.running < self.calls_max and (batch := self._take()):
            self.running += 1
            self._requests_running += len(batch)
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Item]:
        """The oldest request, and those that fit to it, as far as a call takes them."""
        batch: list[_Item] = []
        others: list[_Item] = []
        rows = 0
        while self._waiting:
            item = self._waiting.popleft()
            if batch and (item.fit != batch[0].fit or rows + item.rows > self.rows_max):
                others.append(item)
                continue
            item.is_waiting = False
            batch.append(item)
            rows += item.rows
            if rows >= self.rows_max:
                break
        self._waiting.extendleft(reversed(others))
        return batch

    async def _run(self, batch: list[_Item]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._requests_running -= len(batch)
            self._leave()

    def _measure(self, started_s: float) -> None:
        """A call has ended with outputs, or is not waited for any more."""
        now_s = time.monotonic()
        took_s = now_s - max(started_s, self._ended_s)
        self._measured += 1
        # The first few count alike; after them one that sticks out changes little.
        weight = max(PACE_WEIGHT, 1 / self._measured)
        if weight == PACE_WEIGHT:
            took_s = min(took_s, PACE_OUTLIER_FACTOR * self.pace_s)
        self.pace_s += weight * (took_s - self.pace_s)
        self._ended_s = now_s

    def _leave(self) -> None:
        self.running -= 1
        self._wake(asyncio.get_running_loop())

    def _keep(self) -> Callable[[], None]:
        """Count a call that nobody waits for any more, until it has ended."""
        self.running += 1

        def leave() -> None:
            self._ended_s = time.monotonic()
            self._leave()

        return leave

    async def _answer(self, batch: list[_Item]) -> None:
        for one in batch:
            one.on_start()
        had_company = self._look_for_company()
        try:
            outputs = await self._send(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear
            is_alone = len(batch) == 1 and (self.rows_max == 1 or not had_company())
            if is_alone or isinstance(error, INFRASTRUCTURE_ERRORS):
                _fail(batch, error)
            elif left := [one for one in batch if not one.outputs.done()]:
                # Nobody's line stands still for those who have given up meanwhile.
                await self._repeat(left)
        else:
            _deliver(batch, outputs)

    def _look_for_company(self) -> Callable[[], bool]:
        """Whether another call was at the replica with the one that begins now.

        Triton's own batcher may have joined them, so that one failed by the other's input.
        """
        others, begun = self._sending, self._begun + 1
        return lambda: others > 0 or self._begun > begun

    async def _repeat(self, batch: list[_Item]) -> None:
        """Request by request, with nothing else at the replica; who fails now fails by itself."""
        self._repeating += 1
        try:
            async with self._repeats:
                while self._sending:
                    self._is_quiet.clear()
                    await self._is_quiet.wait()
                for one in batch:
                    if not one.outputs.done():
                        await self._answer_alone(one)
        finally:
            self._repeating -= 1

    async def _answer_alone(self, one: _Item) -> None:
        try:
            _deliver([one], await self._send([one]))
        except Exception as error:  # noqa: BLE001 - as above
            _fail([one], error)

    async def _send(self, batch: list[_Item]) -> Outputs:
        self._sending += 1
        self._begun += 1
        try:
            return await self._call(batch)
        finally:
            self._sending -= 1
            if not self._sending:
                self._is_quiet.set()

    async def _call(self, batch: list[_Item]) -> Outputs:
        deadline_s = max(one.deadline_s for one in batch)
        tensors = batch[0].tensors if len(batch) == 1 else _join(batch)
        rows = sum(one.rows for one in batch)
        if self.on_call is not None:
            self.on_call(len(batch), rows)
        started_s = time.monotonic()
        try:
            outputs = await batch[0].send(tensors, deadline_s=deadline_s, keep_slot=self._keep)
        except TritonDeadlineError:
            # It goes on over there, and has taken so long at least.
            self._measure(started_s)
            raise
        self._measure(started_s)
        if len(batch) > 1 and any(len(array) != rows for array in outputs.values()):
            raise OutputError
        return outputs


def _join(batch: Sequence[_Item]) -> list[Tensor]:
    rows = sum(one.rows for one in batch)
    joined = []
    for column in zip(*(one.tensors for one in batch), strict=True):
        first = column[0]
        data = np.concatenate([one.data for one in column])
        joined.append(Tensor(first.name, first.datatype, (rows, *first.shape[1:]), data))
    return joined


def _deliver(batch: Sequence[_Item], outputs: Outputs) -> None:
    begin = 0
    for one in batch:
        end = begin + one.rows
        if not one.outputs.done():
            is_alone = len(batch) == 1
            part = outputs if is_alone else {k: array[begin:end] for k, array in outputs.items()}
            one.outputs.set_result(part)
        begin = end


def _fail(batch: Sequence[_Item], error: Exception) -> None:
    for one in batch:
        if not one.outputs.done():
            own = error if len(batch) == 1 else copy_for_another(error)
            one.outputs.set_exception(own)
