"""Versions that are unloaded while nobody calls them: say what is used, and wake what sleeps.

A request for a version that sleeps, or that no node has, tells Postgres that it wants it, and waits
for a replica as long as it has time. The control plane places one, however many ask, and the same
notice that tells of every replica tells of this one. Nothing is held or charged meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg

from inference.gateway.config import (
    RETRY_AFTER_MAX_S,
    USE_FLUSH_S,
    USE_NOTED_S,
    WAKE_AGAIN_S,
    WAKE_MARGIN_S,
    WAKE_RETRY_S,
    WAKE_WAITING_MAX,
    WAKE_WAITING_PER_VERSION_MAX,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.errors import (
    NOT_READY_RETRY_S,
    ModelNotReadyError,
    ModelWakingError,
    WakeQueueFullError,
)
from inference.gateway.prediction import Prediction
from inference.gateway.route import Replica, Routes
from marketplace.core.errors import InsufficientCreditError

logger = logging.getLogger(__name__)

_MAY_WAIT = "SELECT inference_may_wait(%s) AS may_wait"
_WAKE = "SELECT may_wait, load_ms FROM inference_wake(%s)"
_NOTE_USE = "SELECT inference_note_use(%s)"
# As `billing_reserve` chooses it. What is held counts as well: it may be this gateway's own.
_HAS_CREDIT = """
    SELECT a.posted_nanos + coalesce(a.credit_limit_nanos, -a.min_available_nanos) >= %s AS has
    FROM billing_ledgeraccount a WHERE a.holder_id = %s
        AND (a.kind = 'wallet' OR a.kind = 'receivable' AND a.credit_limit_nanos > 0)
    ORDER BY a.kind LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What Postgres said of a version that sleeps, or did until a moment ago."""

    may_wait: bool
    load_s: float | None
    at_s: float


class Waking:
    """Wakes versions, for the requests of one process, and bounds how many wait."""

    def __init__(
        self,
        database: Database,
        routes: Routes,
        *,
        waiting_max: int = WAKE_WAITING_MAX,
        per_version_max: int = WAKE_WAITING_PER_VERSION_MAX,
    ) -> None:
        self.database = database
        self.routes = routes
        self.waiting_max = waiting_max
        self.per_version_max = per_version_max
        self.waiting = 0
        self._waiting_for: dict[UUID, int] = {}
        self._told: dict[UUID, Told] = {}
        self._asking: dict[UUID, asyncio.Task[Told]] = {}

    def list_waiting(self) -> list[tuple[UUID, int]]:
        """Versions that are waited for, and by how many requests."""
        return list(self._waiting_for.items())

    async def find(self, version_id: UUID) -> Replica | None:
        """A replica of a version; None if it sleeps or is on its way: then it can be waited for.

        Raises:
            ModelNotReadyError: None is ready, and none is to be expected.
            TritonUnavailableError, DatabaseUnavailableError: As `Routes.pick`.
        """
        try:
            return await self.routes.pick(version_id)
        except ModelNotReadyError:
            if version_id in self._waiting_for:
                return None
            row = await self.database.fetch_one(_MAY_WAIT, [version_id])
            if row is None or not row["may_wait"]:
                raise
            return None

    async def require_credit(self, prediction: Prediction) -> None:
        """Load nothing for a caller who could not pay for its prediction.

        Raises:
            InsufficientCreditError: There is less than it costs, and it has no free ones.
        """
        nanos = prediction.gross_nanos
        if not nanos or prediction.price.terms.free_units:
            return
        row = await self.database.fetch_one(_HAS_CREDIT, [nanos, prediction.caller.account_id])
        if row is None or not row["has"]:
            raise InsufficientCreditError(
                "Neither the wallet nor a credit limit leaves enough for this prediction.",
                required_nano_usd=nanos,
            )

    async def wait(self, version_id: UUID, *, deadline_s: float) -> Replica:
        """Wake a version, and wait for a replica of it.

        Args:
            version_id: What is wanted.
            deadline_s: On the clock of time.monotonic; the answer leaves a little before.

        Raises:
            WakeQueueFullError: Too many wait already.
            ModelWakingError: None was ready in time.
            ModelNotReadyError: It was withdrawn or stopped meanwhile.
            TritonUnavailableError, DatabaseUnavailableError: As `Routes.pick`.
        """
        with self._place(version_id):
            while True:
                told = await self._wake(version_id)
                try:
                    return await self.routes.pick(version_id)
                except ModelNotReadyError:
                    if not told.may_wait:
                        raise ModelNotReadyError(
                            "No replica of the model is ready.", retry_after_s=NOT_READY_RETRY_S
                        ) from None
                left_s = deadline_s - WAKE_MARGIN_S - time.monotonic()
                if left_s <= 0:
                    raise ModelWakingError(retry_after_s=_choose_retry(told))
                await self.routes.wait_change(min(left_s, WAKE_AGAIN_S))

    @contextmanager
    def _place(self, version_id: UUID) -> Iterator[None]:
        count = self._waiting_for.get(version_id, 0)
        if self.waiting >= self.waiting_max or count >= self.per_version_max:
            told = self._told.get(version_id)
            raise WakeQueueFullError(retry_after_s=_choose_retry(told))
        self.waiting += 1
        self._waiting_for[version_id] = count + 1
        try:
            yield
        finally:
            self.waiting -= 1
            self._waiting_for[version_id] -= 1
            if not self._waiting_for[version_id]:
                del self._waiting_for[version_id]

    async def _wake(self, version_id: UUID) -> Told:
        """Say that it is wanted, once a second however many wait; all share what is answered."""
        told = self._told.get(version_id)
        if told is not None and time.monotonic() - told.at_s < WAKE_AGAIN_S:
            return told
        task = self._asking.get(version_id)
        if task is None:
            task = self._asking[version_id] = asyncio.create_task(self._ask(version_id))
        # Who leaves takes nothing from the others.
        return await asyncio.shield(task)

    async def _ask(self, version_id: UUID) -> Told:
        try:
            [row] = await self.database.write(_WAKE, [version_id])
            load_s = None if row["load_ms"] is None else row["load_ms"] / 1000
            told = Told(bool(row["may_wait"]), load_s, time.monotonic())
            old_s = told.at_s - WAKE_AGAIN_S
            self._told = {key: one for key, one in self._told.items() if one.at_s > old_s}
            self._told[version_id] = told
            return told
        finally:
            del self._asking[version_id]


class Uses:
    """Tells Postgres what is used, so that it is not unloaded."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # When each version was noted, on the clock of time.monotonic.
        self._noted_s: dict[UUID, float] = {}
        self._waiting: set[UUID] = set()

    def note(self, version_id: UUID) -> None:
        """It is used now, or still; costs nothing most of the time."""
        now_s = time.monotonic()
        if now_s - self._noted_s.get(version_id, -math.inf) >= USE_NOTED_S:
            self._noted_s[version_id] = now_s
            self._waiting.add(version_id)

    async def run(self, list_running: Callable[[], Iterable[UUID]]) -> None:
        """Tell it, for ever.

        Args:
            list_running: Called for the versions of what runs at the moment.
        """
        while True:
            await asyncio.sleep(USE_FLUSH_S)
            self.note_all(list_running())
            await self.flush()

    def note_all(self, version_ids: Iterable[UUID]) -> None:
        """All of these are used."""
        for version_id in set(version_ids):
            self.note(version_id)

    async def flush(self) -> None:
        """Tell what waits. What could not be told is told with the next flush."""
        before_s = time.monotonic() - USE_NOTED_S
        for version_id in [key for key, at_s in self._noted_s.items() if at_s < before_s]:
            del self._noted_s[version_id]
        if not self._waiting:
            return
        told, self._waiting = self._waiting, set()
        try:
            await self.database.write(_NOTE_USE, [list(told)])
        except (DatabaseUnavailableError, psycopg.Error) as error:
            logger.warning("uses are not noted: %s", type(error).__name__)
            self._waiting |= told


def _choose_retry(told: Told | None) -> int:
    """In seconds: how long a load takes, as far as anybody knows."""
    load_s = WAKE_RETRY_S if told is None or told.load_s is None else told.load_s
    return min(RETRY_AFTER_MAX_S, max(1, math.ceil(load_s)))
