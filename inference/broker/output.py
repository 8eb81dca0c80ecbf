"""What jobs say while they run: a log in Redis for each, for whoever watches.

A chunk's place in the log is the epoch of its lease and its number, so that one that comes twice
is kept once and one that comes too early is noticed. Redis may lose all of it at any moment: what
a job has said in the end stands in Postgres, and a reader that has come to some character of it
goes on from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

logger = logging.getLogger(__name__)

PREFIX = "strongroom:{jobs}:output:"
# Of one job. What it says beyond that is read when it is over.
CHUNKS_MAX = 10_000
BYTES_MAX = 1024 * 1024
# After the last chunk: longer than a run may last.
KEPT_S = 3_600
# After its end; whoever watches has heard of it by then, and reads the rest in Postgres.
KEPT_AFTER_END_S = 60
# How often the logs are looked at, all that somebody waits for at once.
LOOK_S = 0.1
# Chunks that one look at one log brings, and one who wants all of it at once.
READ_MAX = 64
PAGE_MAX = 1_000
# Redis answers in well under a millisecond. One that does not is left alone for a moment.
WAIT_S = 1.0
AWAY_S = 1.0
# Behind every chunk of its epoch.
_END = 10**12
_SCRIPT = Path(__file__).with_name("output.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of what a job has said.

    Args:
        place: In the log, as `read` takes it.
        epoch: Of the lease under which it was said.
        start: Characters of that epoch before it.
        text: Empty where the job has come to its end.
    """

    place: str
    epoch: int
    start: int
    text: str


@dataclass(slots=True, eq=False)
class _Reader:
    job_id: UUID
    after: str
    found: asyncio.Future[list[Chunk]]


class Outputs:
    """The logs, for one process.

    Args:
        redis_url: None where there is no Redis: then nothing is kept.
    """

    def __init__(
        self, redis_url: str | None, *, chunks_max: int = CHUNKS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._redis = (
            Redis.from_url(
                redis_url,
                socket_connect_timeout=WAIT_S,
                socket_timeout=WAIT_S,
                retry=Retry(NoBackoff(), 0),
            )
            if redis_url
            else None
        )
        self._limits = (chunks_max, bytes_max)
        self._away_until_s = 0.0
        self._readers: list[_Reader] = []
        self._is_wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for those who wait."""
        if self._redis is not None:
            self._looking = asyncio.create_task(self._look_on(self._redis))

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        if self._redis is not None:
            with suppress(RedisError, OSError):
                await self._redis.aclose()

    async def append(
        self, job_id: UUID, epoch: int, number: int, chunks: Sequence[str]
    ) -> tuple[str, int]:
        """Keep chunks of a job, the first of which has a number, counted from 0.

        Returns:
            A word and the number that is expected next. kept; gap (nothing of it was kept: those
            before are missing); full (the job has said as much as is kept of one); stale (there is
            a newer lease); away (there is no Redis).
        """
        texts = [part for one in chunks for part in (one, len(one))]
        found = await self._run(job_id, epoch, number, *self._limits, KEPT_S * 1000, *texts)
        return ("away", 0) if found is None else (found[0].decode(), int(found[1]))

    async def end(self, job_id: UUID, epoch: int) -> None:
        """Tell whoever watches that the job is over under this lease."""
        if self._redis is None or time.monotonic() < self._away_until_s:
            return
        key = f"{PREFIX}{job_id}"
        try:
            async with asyncio.timeout(WAIT_S):
                pipeline: Any = self._redis.pipeline(transaction=False)
                pipeline.xadd(key, {"e": b"1"}, id=f"{epoch}-{_END}")
                pipeline.pexpire(key, KEPT_AFTER_END_S * 1000)
                await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_away(error)

    async def read(self, job_id: UUID, after: str, timeout_s: float) -> list[Chunk]:
        """The next chunks behind a place, as soon as there are some; none after `timeout_s`.

        Args:
            job_id: Whose.
            after: The place of the last one that is known; `<epoch>-0` is before all of an epoch.
            timeout_s: How long to wait.
        """
        found: asyncio.Future[list[Chunk]] = asyncio.get_running_loop().create_future()
        reader = _Reader(job_id, after, found)
        self._readers.append(reader)
        self._is_wanted.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await found
        except TimeoutError:
            return []
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    async def read_text(self, job_id: UUID, epoch: int, chars_max: int) -> str:
        """What a job has said under a lease so far, from its beginning, at once.

        Args:
            job_id: Which.
            epoch: Of the lease.
            chars_max: What is beyond is left out.

        Returns:
            Empty where nothing of it is there: it has said nothing, or its beginning was lost.
        """
        if self._redis is None or time.monotonic() < self._away_until_s:
            return ""
        text, after = "", f"{epoch}-0"
        try:
            async with asyncio.timeout(WAIT_S):
                while len(text) < chars_max:
                    entries: Any = await self._redis.xrange(
                        f"{PREFIX}{job_id}", f"({after}", f"({epoch}-{_END}", count=PAGE_MAX
                    )
                    for chunk in [_read_entry(*one) for one in entries]:
                        if chunk.start != len(text):
                            # Redis has forgotten what comes before.
                            return text
                        text, after = text + chunk.text, chunk.place
                    if len(entries) < PAGE_MAX:
                        break
        except (RedisError, OSError, TimeoutError) as error:
            self._note_away(error)
            return ""
        return text[:chars_max]

    async def _run(self, job_id: UUID, *arguments: Any) -> Any:
        if self._redis is None or time.monotonic() < self._away_until_s:
            return None
        send: Callable[..., Awaitable[Any]] = self._redis.execute_command
        rest = (1, f"{PREFIX}{job_id}", *arguments)
        try:
            async with asyncio.timeout(WAIT_S):
                try:
                    return await send("EVALSHA", _SHA, *rest)
                except NoScriptError:
                    # A fresh Redis, or one whose scripts were flushed; it keeps this one.
                    return await send("EVAL", _SCRIPT, *rest)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_away(error)
            return None

    async def _look_on(self, redis: Redis) -> None:
        while True:
            await self._is_wanted.wait()
            if time.monotonic() >= self._away_until_s:
                try:
                    await self._look(redis)
                except (RedisError, OSError, TimeoutError) as error:
                    self._note_away(error)
            if not self._readers:
                self._is_wanted.clear()
            await asyncio.sleep(LOOK_S)

    async def _look(self, redis: Redis) -> None:
        readers = list(self._readers)
        if not readers:
            return
        pipeline: Any = redis.pipeline(transaction=False)
        for one in readers:
            key = f"{PREFIX}{one.job_id}"
            pipeline.xrange(key, min=f"({one.after}", count=READ_MAX)
        async with asyncio.timeout(WAIT_S):
            answers = await pipeline.execute()
        for reader, entries in zip(readers, answers, strict=True):
            if entries and not reader.found.done():
                reader.found.set_result([_read_entry(*entry) for entry in entries])

    def _note_away(self, error: Exception) -> None:
        self._away_until_s = time.monotonic() + AWAY_S
        logger.debug("outputs of jobs are not kept: %s", type(error).__name__)


def _read_entry(place: bytes, fields: dict[bytes, bytes]) -> Chunk:
    text = fields.get(b"t", b"").decode()
    length = int(fields.get(b"l", b"0"))
    epoch = int(place.partition(b"-")[0])
    return Chunk(place.decode(), epoch, length - len(text), text)
