"""Leases of slots and places from Redis: one call at a time, for all requests that wait.

As with holds and bookings there is no timer: what comes while a call is on its way goes with
the next one. Each call also says that this gateway lives. Redis may go away, be slow, or
forget everything at any moment: then nobody waits, this process keeps its fair share of
each limit by itself, and tries again every second.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from inference.gateway.config import LIMITS_PER_CALL_MAX
from inference.gateway.shares import FULL_S, LEASE_S, Gate, Rate

logger = logging.getLogger(__name__)

# The braces keep all keys on one node of a cluster; the rights of the gateway's user in
# Redis end with this prefix.
PREFIX = "strongroom:{limits}:"
# How often a gateway says that it lives, and how long it is believed.
BEAT_S = 1.0
LIVE_S = 5.0
# Places that nobody has used for so long go back.
IDLE_S = 1.0

_SCRIPT = Path(__file__).with_name("limits.lua").read_text()
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_LIVE_KEY = f"{PREFIX}gateways"

Item = Rate | Gate


class Ask:
    """What one request lacks: slots of rates and places of gates, all or none."""

    __slots__ = ("answer", "counts", "is_abandoned", "items")

    def __init__(self, items: list[Item], counts: list[int]) -> None:
        self.items = items
        # Slots of each rate; a gate has one place for a request.
        self.counts = counts
        # None if granted; otherwise the items that lack something, and none of them where
        # Redis did not answer.
        self.answer: asyncio.Future[list[Item] | None] = asyncio.get_running_loop().create_future()
        self.is_abandoned = False


class _Batch:
    """One call on its way."""

    def __init__(self) -> None:
        self.keys: list[str] = [_LIVE_KEY]
        self.items: list[Item] = []
        self.holds: list[list[int]] = []
        self.groups: list[list[list[int]]] = []
        # Beside each group: the request that waits for it, or the rate that is filled up.
        self.askers: list[Ask | Rate] = []
        # Of each gate, what the last who asks for a place of it will ask for.
        self.last_places: dict[Gate, list[int]] = {}
        self._numbers: dict[Item, int] = {}

    def number(self, item: Item) -> int:
        """The place of an item among the keys, as Lua counts."""
        number = self._numbers.get(item)
        if number is None:
            self.keys.append(item.key)
            self.items.append(item)
            number = self._numbers[item] = len(self.keys)
            if isinstance(item, Gate):
                self.holds.append([number, item.used + item.idle])
        return number


class LimitsStore:
    """Talks to Redis for one gateway process.

    Args:
        url: Of Redis.
        wait_s: How long a call may take before Redis counts as gone.
        gateways: How many gateways there are, until Redis has said it.
    """

    def __init__(self, url: str, *, wait_s: float, gateways: int) -> None:
        self.wait_s = wait_s
        self.gateways = gateways
        # Whether limits are shared; otherwise each gateway keeps its part.
        self.is_up = False
        self.gateway_id = uuid4().hex
        self.gates: dict[str, Gate] = {}
        self._live = 0
        self._waiting: deque[Ask] = deque()
        self._refills: list[Rate] = []
        self._changed: set[Gate] = set()
        self._is_beat_due = True
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._redis = Redis.from_url(
            url,
            max_connections=1,
            socket_timeout=wait_s,
            socket_connect_timeout=wait_s,
            retry=Retry(NoBackoff(), 0),
        )

    async def start(self) -> None:
        """Say that this gateway lives, and go on saying so; does not wait for Redis for long."""
        await self._exchange()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._beat())]

    async def stop(self) -> None:
        """Let go. What is still held ends with this gateway's life in Redis."""
        # Not by cancelling: a client in the middle of a call may take that for a lost connection.
        self._is_stopping = True
        self._wake.set()
        run, beat = self._tasks
        beat.cancel()
        await asyncio.wait([run, beat], timeout=2 * self.wait_s)
        run.cancel()
        await self._disconnect()

    def refill(self, rate: Rate) -> None:
        """Lease slots ahead of need."""
        rate.is_refilling = True
        self._refills.append(rate)
        self._wake.set()

    def give_back(self, gate: Gate) -> None:
        """Tell Redis that places are free; until then the next request here may have them."""
        self._changed.add(gate)
        self._wake.set()

    async def ask(self, ask: Ask) -> list[Item] | None:
        """Wait for slots and places.

        Returns:
            None if all was granted; otherwise what lacks, an empty list where Redis is gone.
        """
        self._waiting.append(ask)
        self._wake.set()
        try:
            return await ask.answer
        except asyncio.CancelledError:
            ask.is_abandoned = True
            if ask.answer.done() and not ask.answer.cancelled() and ask.answer.result() is None:
                self._return(ask)
            raise

    async def _beat(self) -> None:
        while not self._is_stopping:
            await asyncio.sleep(BEAT_S)
            self._is_beat_due = True
            self._wake.set()

    async def _run(self) -> None:
        while not self._is_stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._has_work() and not self._is_stopping:
                await self._exchange()

    def _has_work(self) -> bool:
        if not self.is_up:
            return self._is_beat_due
        return bool(self._is_beat_due or self._waiting or self._refills or self._changed)

    async def _exchange(self) -> None:
        """One call with all that has gathered."""
        sent_s = time.monotonic()
        batch = _Batch()
        try:
            self._compose(batch, sent_s)
            answer = await self._call(batch)
            self._apply(batch, answer, sent_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, requests must not wait for it.
            await self._go_down(error, batch)

    def _compose(self, batch: _Batch, now_s: float) -> None:
        # Redis is tried, however it ends; the next beat tries again.
        is_beat, self._is_beat_due = self._is_beat_due, False
        changed, self._changed = self._changed, set()
        for gate in changed:
            gate.idle = min(gate.idle, gate.kept)
        if is_beat:
            changed.update(self._list_held(now_s))
        for _ in range(min(len(self._waiting), LIMITS_PER_CALL_MAX)):
            ask = self._waiting.popleft()
            if not ask.is_abandoned:
                self._add_ask(batch, ask)
        for gate, place in batch.last_places.items():
            # Of many who come together only the last brings places that will lie ready: what
            # the others brought would be missing where the cap ends.
            place[2] += gate.kept // 4
        refills, self._refills = self._refills, []
        for rate in refills:
            ahead = rate.grow_slice(self.gateways)
            item = [batch.number(rate), rate.per_minute, rate.leased_burst, 0, ahead]
            batch.groups.append([item])
            batch.askers.append(rate)
        for gate in changed:
            batch.number(gate)

    def _list_held(self, now_s: float) -> list[Gate]:
        """All gates with places; those that lie idle give theirs back."""
        held = []
        for gate in self.gates.values():
            if gate.used or gate.idle:
                if not self.is_up or now_s - gate.used_s > IDLE_S:
                    gate.idle = 0
                held.append(gate)
        return held

    def _add_ask(self, batch: _Batch, ask: Ask) -> None:
        group = []
        for item, count in zip(ask.items, ask.counts, strict=True):
            number = batch.number(item)
            if isinstance(item, Gate):
                place = [number, item.cap, 1]
                batch.last_places[item] = place
                group.append(place)
            else:
                # Who comes with many others does not ask for all of them.
                ahead = 0 if item.is_refilling else item.grow_slice(self.gateways)
                item.is_refilling = item.is_leased
                group.append([number, item.per_minute, item.leased_burst, count, count + ahead])
        batch.groups.append(group)
        batch.askers.append(ask)

    async def _call(self, batch: _Batch) -> Any:
        document = orjson.dumps(
            {
                "gateway": self.gateway_id,
                "live_ms": int(LIVE_S * 1000),
                "holds": batch.holds,
                "groups": batch.groups,
            }
        )
        async with asyncio.timeout(self.wait_s):
            # `evalsha` and `eval` of the client do no more than this, and are typed less.
            send: Callable[..., Awaitable[Any]] = self._redis.execute_command
            rest = (len(batch.keys), *batch.keys, document)
            try:
                return await send("EVALSHA", _SHA, *rest)
            except NoScriptError:
                # A fresh Redis, or one whose scripts were flushed; it keeps this one.
                return await send("EVAL", _SCRIPT, *rest)

    def _apply(self, batch: _Batch, answer: Any, sent_s: float) -> None:
        is_known, live, answers, state = answer
        now_s = time.monotonic()
        for item, value in zip(batch.items, state, strict=True):
            if isinstance(item, Gate):
                item.others = value
            else:
                item.note(value, now_s)
        for asker, said in zip(batch.askers, answers, strict=True):
            if isinstance(asker, Rate):
                asker.is_refilling = False
                asker.add(said[1] if said[0] else 0, sent_s + LEASE_S)
            else:
                self._answer(asker, said, sent_s, now_s)
        # One beat may come before the others have said again, after a flush, that they live.
        self.gateways = max(1, live, self._live)
        self._live = live
        if not is_known:
            # It has forgotten us, or never knew: it shall know all our places.
            self._is_beat_due = self._is_beat_due or self.is_up
        if not self.is_up:
            self.is_up = True
            logger.info("limits: shared by %d gateways", live)

    def _answer(self, ask: Ask, said: Sequence[int], sent_s: float, now_s: float) -> None:
        if not said[0]:
            lacking = [ask.items[position - 1] for position in said[1:]]
            for item in ask.items:
                if isinstance(item, Rate):
                    item.is_refilling = False
                elif item in lacking:
                    item.full_s = now_s + FULL_S
            if not ask.answer.done():
                ask.answer.set_result(lacking)
            return
        for item, count, granted in zip(ask.items, ask.counts, said[1:], strict=True):
            if isinstance(item, Gate):
                item.used += 1
                item.idle += granted - 1
            else:
                item.is_refilling = False
                item.add(granted - count, sent_s + LEASE_S)
        if ask.is_abandoned or ask.answer.done():
            self._return(ask)
        else:
            ask.answer.set_result(None)

    def _return(self, ask: Ask) -> None:
        """Nobody is there to use what was granted. Slots are lost; places are not."""
        for item in ask.items:
            if isinstance(item, Gate):
                item.release()
                self.give_back(item)

    async def _go_down(self, error: Exception, batch: _Batch) -> None:
        if self.is_up:
            name = type(error).__name__
            logger.warning("limits: Redis is gone, each gateway keeps its share (%s)", name)
        self.is_up = False
        asks = [one for one in batch.askers if isinstance(one, Ask)] + list(self._waiting)
        self._waiting.clear()
        for item in (*batch.items, *self._refills):
            if isinstance(item, Rate):
                item.is_refilling = False
        self._refills.clear()
        for ask in asks:
            if not ask.answer.done():
                ask.answer.set_result([])
        # A late answer must not be taken for that of the next call.
        await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(self.wait_s):
                await self._redis.connection_pool.disconnect()
        except Exception as error:  # noqa: BLE001 - it is being thrown away.
            logger.debug("limits: %s", type(error).__name__)
