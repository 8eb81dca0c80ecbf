"""Watch a prediction: what it says, where it is, and its end; from any place, as often as wanted.

A place is the epoch of a lease and a number of characters of what was said under it. So it means
the same in the log in Redis, where a job's words are while it runs, and in the row in Postgres,
where they are when it is over: who comes back with a place misses nothing and gets nothing twice,
whatever was lost meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from inference.broker.output import Chunk, Outputs
from inference.gateway.closing import Closing
from inference.gateway.config import (
    WATCH_AGE_MAX_S,
    WATCH_LOOK_S,
    WATCH_PLACE_S,
    WATCHES_MAX,
    WATCHES_PER_ACCOUNT_MAX,
)
from inference.gateway.database import Database, Row
from inference.gateway.errors import (
    CapacityError,
    ConcurrencyLimitedError,
    EventIdInvalidError,
    OutputRemovedError,
)
from inference.gateway.job_states import JobStates
from inference.gateway.jobs import OVER, Jobs
from marketplace.core.ids import to_public

_CURSOR = re.compile(r"([a-z2-7]{26})\.(\d{1,18})\.(\d{1,12})\.([0-9a-f]{8}|end)", re.ASCII)
# Nothing was said of its status yet.
_NO_MARK, _END_MARK = "00000000", "end"
_FULL_RETRY_S = 5
# Which output comes in pieces, and under which lease the last of a job was said.
_FACTS = """
    SELECT (SELECT o->>'name' FROM jsonb_array_elements(v.interface->'outputs') o
            WHERE o->'stream' = 'true'::jsonb LIMIT 1) AS streamed,
        greatest(0, (SELECT j.lease_epoch FROM inference_job j WHERE j.id = %(id)s),
            (SELECT max(a.epoch) FROM inference_jobattempt a WHERE a.job_id = %(id)s)) AS epoch
    FROM marketplace_modelversion v WHERE v.id = %(version_id)s
"""

Render = Callable[[Row], Awaitable[dict[str, Any]]]
Find = Callable[[], Awaitable[Row]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a client has come with a prediction.

    Args:
        prediction_id: Which.
        epoch: The lease whose words it has.
        length: How many characters of them.
        mark: Digest of the status that it knows; `end` where it knows the end.
    """

    prediction_id: UUID
    epoch: int = 0
    length: int = 0
    mark: str = _NO_MARK

    def __str__(self) -> str:
        return f"{to_public(self.prediction_id)}.{self.epoch}.{self.length}.{self.mark}"

    @property
    def is_end(self) -> bool:
        """Whether nothing comes behind it."""
        return self.mark == _END_MARK

    @classmethod
    def parse(cls, prediction_id: UUID, text: str | None) -> Cursor:
        """The place that a `Last-Event-ID` names; the beginning, where there is none.

        Raises:
            EventIdInvalidError: It is none of ours, or one of another prediction.
        """
        if not text:
            return cls(prediction_id)
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise EventIdInvalidError("Last-Event-ID is not the id of an event of ours.")
        if found[1] != to_public(prediction_id):
            raise EventIdInvalidError("Last-Event-ID belongs to another prediction.")
        return cls(prediction_id, int(found[2]), int(found[3]), found[4])


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and the place behind it.

    Args:
        kind: status, output, restart, done or error.
        data: A text for output, else a document.
        cursor: Where a client stands that has it.
    """

    kind: str
    data: Any
    cursor: Cursor


class JobWatches:
    """All that is watched in one process, and how much more may be.

    Args:
        jobs: Knows where a job is on its way.
        database: For what is over.
        outputs: What jobs say while they run.
        closing: Ends all that is watched; another gateway goes on with it.
    """

    def __init__(self, jobs: Jobs, database: Database, outputs: Outputs, closing: Closing) -> None:
        self.closing = closing
        self.jobs = jobs
        self.database = database
        self.outputs = outputs
        self.states = JobStates(database)
        self._open: dict[UUID, int] = {}
        self.count = 0

    @contextmanager
    def place(self, account_id: UUID) -> Iterator[None]:
        """A place for one more watcher of an account.

        Raises:
            ConcurrencyLimitedError: The account has too many.
            CapacityError: This process has.
        """
        mine = self._open.get(account_id, 0)
        if mine >= WATCHES_PER_ACCOUNT_MAX:
            raise ConcurrencyLimitedError(
                f"An account watches at most {WATCHES_PER_ACCOUNT_MAX} predictions at a time.",
                retry_after_s=_FULL_RETRY_S,
            )
        if self.count >= WATCHES_MAX:
            raise CapacityError(retry_after_s=_FULL_RETRY_S)
        self._open[account_id] = mine + 1
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._open[account_id] -= 1
            if not self._open[account_id]:
                del self._open[account_id]

    def follow(
        self, cursor: Cursor, *, find: Find, render: Render, is_gone: Callable[[], bool]
    ) -> AsyncIterator[Event]:
        """All that happens to a prediction from a place on, to its end.

        Args:
            cursor: The place.
            find: The prediction's row as it is now.
            render: Makes of it what its consumer sees.
            is_gone: Whether nobody watches any more.

        Raises:
            OutputRemovedError: The place is in a text that is not kept any more.
            DatabaseUnavailableError: It is not known how it goes on.
        """
        return _Watch(self, cursor, find, render).follow(is_gone)


class _Watch:
    """One watcher's way through one prediction."""

    def __init__(self, watches: JobWatches, cursor: Cursor, find: Find, render: Render) -> None:
        self.watches = watches
        self.cursor = cursor
        self.find = find
        self.render = render
        self._progress: Mapping[str, Any] = {}
        # The state that was described last.
        self._state = ""
        # The last place in the log that was read.
        self._read = f"{cursor.epoch}-0"
        # Whether a part of the log is missing: the rest comes from its end.
        self._is_broken = False

    async def follow(self, is_gone: Callable[[], bool]) -> AsyncIterator[Event]:
        """See `JobWatches.follow`."""
        job_id = self.cursor.prediction_id
        ends_s = time.monotonic() + WATCH_AGE_MAX_S
        place_s = 0.0
        while not (is_gone() or self.watches.closing.has_begun or time.monotonic() >= ends_s):
            state = await self.watches.states.look(job_id)
            if state is None or state["state"] in OVER:
                async for event in self._finish():
                    yield event
                return
            for event in self._note_lease(state):
                yield event
            now_s = time.monotonic()
            if self._state != state["state"] or now_s >= place_s:
                place_s = now_s + WATCH_PLACE_S
                self._state = state["state"]
                row = await self.find()
                document = await self.render(row)
                if "progress" in document:
                    for event in self._say_status(document["status"], document["progress"]):
                        yield event
            for chunk in await self._listen():
                for event in self._take(chunk):
                    yield event

    async def _listen(self) -> list[Chunk]:
        job_id = self.cursor.prediction_id
        if self._is_broken:
            await asyncio.sleep(WATCH_LOOK_S)
            return []
        return await self.watches.outputs.read(job_id, self._read, WATCH_LOOK_S)

    def _note_lease(self, state: Mapping[str, Any]) -> Iterator[Event]:
        """What was said under a lease that is over counts no more."""
        is_waiting = state["state"] == "queued"
        epoch = state["lease_epoch"] + (1 if is_waiting else 0)
        if self.cursor.epoch < epoch:
            yield from self._begin(epoch)

    def _begin(self, epoch: int) -> Iterator[Event]:
        had_some = self.cursor.length > 0
        self.cursor = replace(self.cursor, epoch=epoch, length=0)
        self._is_broken = False
        if had_some:
            yield Event("restart", {"reason": "The output so far is void."}, self.cursor)

    def _say_status(self, status: str, progress: Mapping[str, Any]) -> Iterator[Event]:
        if self.cursor.length and progress["stage"] == "starting":
            # It has said something already, and its node not yet that it runs.
            status, progress = "processing", {**progress, "stage": "running"}
        self._progress = progress
        document = {"status": status, "progress": progress}
        mark = _digest(document)
        if mark != self.cursor.mark:
            self.cursor = replace(self.cursor, mark=mark)
            yield Event("status", document, self.cursor)

    def _take(self, chunk: Chunk) -> Iterator[Event]:
        self._read = chunk.place
        if chunk.epoch > self.cursor.epoch:
            yield from self._begin(chunk.epoch)
        if not chunk.text or chunk.epoch < self.cursor.epoch or self._is_broken:
            return
        known = self.cursor.length - chunk.start
        if known < 0:
            # Redis has forgotten what comes between.
            self._is_broken = True
            return
        if known < len(chunk.text):
            if self._progress and self._progress["stage"] not in ("running", "canceling"):
                # Its node has not said so yet.
                yield from self._say_status("processing", {"stage": "running"})
            yield self._say(chunk.text[known:])

    def _say(self, text: str) -> Event:
        self.cursor = replace(self.cursor, length=self.cursor.length + len(text))
        return Event("output", text, self.cursor)

    async def _finish(self) -> AsyncIterator[Event]:
        row = await self.find()
        parameters = {"id": row["id"], "version_id": row["version_id"]}
        facts = await self.watches.database.fetch_one(_FACTS, parameters)
        assert facts is not None
        envelope = await self.render(row)
        output = envelope["output"]
        streamed = facts["streamed"] if isinstance(output, dict) else None
        text = output.get(streamed) if streamed else ""
        text = text if isinstance(text, str) else ""
        is_lost = envelope["data_removed"] and not envelope["error"]
        if self.cursor.length and is_lost:
            raise OutputRemovedError
        is_other = self.cursor.epoch < facts["epoch"] or self.cursor.length > len(text)
        # Where nothing was kept, its end says all.
        if streamed and is_other:
            for event in self._begin(facts["epoch"]):
                yield event
        status = {"status": envelope["status"]}
        if _digest(status) != self.cursor.mark:
            self.cursor = replace(self.cursor, mark=_digest(status))
            yield Event("status", status, self.cursor)
        for event in self._say_rest(text):
            yield event
        self.cursor = replace(self.cursor, mark=_END_MARK)
        yield self._end(envelope, streamed)

    def _say_rest(self, text: str) -> Iterator[Event]:
        if len(text) > self.cursor.length:
            yield self._say(text[self.cursor.length :])

    def _end(self, envelope: Mapping[str, Any], streamed: str | None) -> Event:
        document = {
            "status": envelope["status"],
            "metrics": envelope["metrics"],
            "data_removed": envelope["data_removed"],
        }
        if envelope["status"] == "failed":
            code = envelope["error"] or "internal"
            detail = f"The prediction failed ({code})."
            return Event("error", document | {"code": code, "detail": detail}, self.cursor)
        output = envelope["output"]
        if streamed:
            output = {name: value for name, value in output.items() if name != streamed}
        if envelope["status"] == "canceled":
            document["reason"] = "canceled"
        return Event("done", document | {"output": output}, self.cursor)


def _digest(document: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)):08x}"
