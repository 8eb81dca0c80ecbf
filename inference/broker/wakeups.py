"""Tell who waits for work that there may be some: here at once, elsewhere through Redis.

One is told of a job, not all: a thousand idle nodes would ask Postgres for one job at once. Who
found some tells the next, so that a burst of jobs wakes as many as it needs.

A wake-up is a hint. Where Redis is away, slow or forgetful, one of those who wait for the same
looks every second, and nothing is lost but that second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

STREAM = "strongroom:{jobs}:wakeups"
# What is told and not heard within a moment, nobody needs to hear any more.
_LENGTH_MAX = 1_000
# How long who waits trusts that he would be woken.
LOOK_S = 1.0
_BLOCK_MS = 5_000
_AWAY_S = 1.0
_CLOSE_S = 3.0


class Wakeups:
    """One per process.

    Args:
        redis_url: None where there is no Redis: then only this process is told.
    """

    def __init__(self, redis_url: str | None) -> None:
        self._redis = (
            Redis.from_url(
                redis_url,
                socket_connect_timeout=1.0,
                socket_timeout=_BLOCK_MS / 1000 + 2,
                retry=Retry(NoBackoff(), 0),
            )
            if redis_url
            else None
        )
        # Who has waited longest comes first.
        self._waiting: dict[asyncio.Future[None], frozenset[UUID]] = {}
        self._own_id = uuid4().bytes
        self._untold: set[UUID | None] = set()
        self._running: list[asyncio.Task[None]] = []
        self._is_closed = False
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, and to hear others."""
        self._running.append(asyncio.create_task(self._look()))
        if self._redis is not None:
            self._running.append(asyncio.create_task(self._listen(self._redis)))

    async def close(self) -> None:
        """Hear and tell nothing more."""
        self._is_closed = True
        tasks = [one for one in (*self._running, self._telling) if one is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            # Not for ever: the client may take a cancel in mid-connection for a failure of Redis.
            await asyncio.wait(tasks, timeout=_CLOSE_S)
        if self._redis is not None:
            with suppress(RedisError, OSError):
                await self._redis.aclose()

    async def tell(self, version_id: UUID | None = None) -> None:
        """There may be work, of a version or of any. Nobody waits for Redis: all goes by turns."""
        self.wake(version_id)
        if self._redis is not None:
            self._untold.add(version_id)
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell(self._redis))

    def wake(self, version_id: UUID | None = None) -> None:
        """Wake one in this process that could run the version; without, one of each kind."""
        if version_id is not None:
            chosen = [one for one, kind in self._waiting.items() if version_id in kind][:1]
        else:
            # Of equals the one that comes first.
            kinds = {kind: one for one, kind in reversed(self._waiting.items())}
            chosen = list(kinds.values())
        for one in chosen:
            del self._waiting[one]
            if not one.done():
                one.set_result(None)

    async def wait(self, timeout_s: float, version_ids: Collection[UUID]) -> None:
        """Return when there may be work of one of the versions, or after so long."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[woken] = frozenset(version_ids)
        try:
            async with asyncio.timeout(timeout_s):
                await woken
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(woken, None)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.wake()

    async def _tell(self, redis: Redis) -> None:
        while self._untold:
            version_id = self._untold.pop()
            message = {"by": self._own_id, "version": version_id.bytes if version_id else b""}
            try:
                await redis.xadd(STREAM, message, maxlen=_LENGTH_MAX, approximate=True)  # type: ignore[arg-type]
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("wake-ups are not told: %s", type(error).__name__)

    async def _listen(self, redis: Redis) -> None:
        while not self._is_closed:
            try:
                last: bytes | str = "$"
                while not self._is_closed:
                    found: Any = await redis.xread(
                        {STREAM: last}, block=_BLOCK_MS, count=_LENGTH_MAX
                    )
                    for _, entries in found or ():
                        last = entries[-1][0]
                        for _, message in entries:
                            self._hear(message)
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("wake-ups are not heard: %s", type(error).__name__)
            await asyncio.sleep(_AWAY_S)

    def _hear(self, message: dict[bytes, bytes]) -> None:
        octets = message.get(b"version", b"")
        if message.get(b"by") != self._own_id:
            self.wake(UUID(bytes=octets) if len(octets) == 16 else None)
