"""Tell whoever waits for work that there may be some: here at once, elsewhere through Redis.

A wake-up is a hint. Where Redis is away, slow or forgetful, who waits looks by itself every
second, and nothing is lost but that second.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

STREAM = "strongroom:{jobs}:wakeups"
# Only that something was added counts.
_LENGTH_MAX = 16
# How long who waits trusts that he would be woken.
LOOK_S = 1.0
_BLOCK_MS = 5_000
_AWAY_S = 1.0


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
        self._waiting: set[asyncio.Future[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to hear others."""
        if self._redis is not None:
            self._listening = asyncio.create_task(self._listen(self._redis))

    async def close(self) -> None:
        """Hear and tell nothing more."""
        for task in (self._listening, self._telling):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
        if self._redis is not None:
            with suppress(RedisError, OSError):
                await self._redis.aclose()

    async def tell(self) -> None:
        """There may be work. Nobody waits for Redis: one telling is on its way at a time."""
        self._wake()
        if self._redis is not None and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell(self._redis))

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be work, or after so long; sooner where nobody would tell."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            async with asyncio.timeout(min(timeout_s, LOOK_S)):
                await woken
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(woken)

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
        self._waiting.clear()

    async def _tell(self, redis: Redis) -> None:
        try:
            await redis.xadd(STREAM, {"w": b"1"}, maxlen=_LENGTH_MAX, approximate=True)
        except (RedisError, OSError, TimeoutError) as error:
            logger.debug("wake-ups are not told: %s", type(error).__name__)

    async def _listen(self, redis: Redis) -> None:
        while True:
            try:
                last: bytes | str = "$"
                while True:
                    found: Any = await redis.xread(
                        {STREAM: last}, block=_BLOCK_MS, count=_LENGTH_MAX
                    )
                    for _, entries in found or ():
                        last = entries[-1][0]
                        self._wake()
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("wake-ups are not heard: %s", type(error).__name__)
            await asyncio.sleep(_AWAY_S)
