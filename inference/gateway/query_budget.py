"""How many different inputs a consumer may ask a model, and a few of them kept as embeddings.

Copying a model takes many different inputs; what an honest consumer repeats costs nothing here.
Counted is per consumer and model, with all its versions, for the UTC day and for all time, in
sketches in this process. Every two seconds they are merged with those of the other gateways in
Postgres, so that a budget is kept by all together with a lag of one flush, and a gateway that
is killed forgets one flush at most.

Only models with a budget, or whose creator wants samples, cost anything; then a few microseconds.
Nothing here waits for anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

import psycopg

from inference.core.query_embedding import Features, embed, read_features
from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer
from inference.gateway.config import (
    QUERY_FLUSH_S,
    QUERY_IDLE_S,
    QUERY_PAIRS_MAX,
    QUERY_SAMPLE_SHARE,
    QUERY_SAMPLES_PER_HOUR_MAX,
    QUERY_SAMPLES_WAITING_MAX,
)
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.errors import QueryBudgetExceededError, QueryBudgetSpentError
from inference.gateway.sketch import Place, Sketch, find_place, is_registers
from inference.triton.tensors import Tensor

logger = logging.getLogger(__name__)

DAY, TOTAL = "day", "total"
_EPOCH = date(1970, 1, 1)
_DAY_S, _HOUR_S = 86_400, 3_600
# Consumers that are new to this process ask for what is known of them; so often at most.
_FLUSH_PAUSE_S = 0.05

_BEGIN = """
    INSERT INTO inference_querysketch (account_id, model_id, period, starts_on, registers,
        estimate, row_count, revision, updated_at)
    SELECT k.account_id, k.model_id, k.period, k.starts_on, ''::bytea, 0, 0, 0, now()
    FROM unnest(%(accounts)s::uuid[], %(models)s::uuid[], %(periods)s::text[], %(days)s::date[])
        AS k (account_id, model_id, period, starts_on)
    ORDER BY 2, 1, 3, 4 ON CONFLICT DO NOTHING
"""
# In one order everywhere, so that no two gateways wait for each other. The registers are sent
# only where another gateway has changed them.
_LOCK = """
    SELECT k.place, s.id, s.revision, s.estimate, b.id IS NOT NULL AS has_own_limit,
        CASE s.period WHEN 'day' THEN b.queries_per_day_max ELSE b.queries_total_max END
            AS own_limit,
        CASE WHEN s.revision = k.revision THEN NULL ELSE s.registers END AS registers
    FROM unnest(%(accounts)s::uuid[], %(models)s::uuid[], %(periods)s::text[], %(days)s::date[],
        %(revisions)s::bigint[])
        WITH ORDINALITY AS k (account_id, model_id, period, starts_on, revision, place)
    JOIN inference_querysketch s ON s.account_id = k.account_id AND s.model_id = k.model_id
        AND s.period = k.period AND s.starts_on = k.starts_on
    LEFT JOIN inference_querybudget b
        ON b.account_id = s.account_id AND b.model_id = s.model_id
    ORDER BY s.id FOR NO KEY UPDATE OF s
"""
_WRITE = """
    UPDATE inference_querysketch s SET registers = coalesce(u.registers, s.registers),
        estimate = u.estimate, row_count = s.row_count + u.row_count,
        revision = s.revision + (u.registers IS NOT NULL)::int, updated_at = now()
    FROM unnest(%(ids)s::bigint[], %(registers)s::bytea[], %(estimates)s::float8[],
        %(counts)s::bigint[]) AS u (id, registers, estimate, row_count)
    WHERE s.id = u.id
"""
_WRITE_SAMPLES = """
    INSERT INTO inference_querysample (account_id, model_id, embedding, created_at)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::bytea[], %s::timestamptz[])
"""


@dataclass(slots=True, eq=False)
class _Counter:
    """One sketch: of a consumer, a model and a period."""

    account_id: UUID
    model_id: UUID
    period: str
    starts_on: date
    sketch: Sketch = field(default_factory=Sketch)
    # Of the row in Postgres that is merged into it; -1 before the first time.
    revision: int = -1
    # Since the last flush: whether registers changed, and rows with every repetition.
    is_dirty: bool = False
    row_count: int = 0
    # What the creator lets this consumer ask instead of what everybody may; None is no budget.
    has_own_limit: bool = False
    own_limit: int | None = None
    # The budget at which an input was refused. Later ones are as well: a full sketch cannot
    # tell an input that was there before from one that is new.
    spent_limit: int = 0

    def choose_limit(self, usual: int | None) -> int | None:
        """The budget that is kept: the model's usual one, or this consumer's own."""
        return self.own_limit if self.has_own_limit else usual

    def has_room(self, places: Sequence[Place], limit: int | None) -> bool:
        """Whether these inputs keep within a budget."""
        if limit is None:
            return True
        if self.spent_limit == limit:
            return False
        sketch = self.sketch
        if round(sketch.measure(places)) <= limit:
            return True
        if round(sketch.estimate + 1) > limit:
            self.spent_limit = limit
        return False

    def add(self, places: Sequence[Place]) -> None:
        self.row_count += len(places)
        if self.sketch.add(places):
            self.is_dirty = True

    def put_back(self, row_count: int) -> None:
        """It was written, or not: nobody knows."""
        self.is_dirty = True
        self.row_count += row_count
        self.revision = -1


@dataclass(slots=True, eq=False)
class _Usage:
    """One consumer of one model, in this process."""

    daily: _Counter
    total: _Counter
    # The UTC day that is counted, in days since 1970.
    day: int
    # On the clock of time.time.
    used_s: float = 0.0
    sampled_hour: int = 0
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    account_id: UUID
    model_id: UUID
    features: Features
    created_at: datetime


class QueryBudgets:
    """Counts the inputs of all consumers that this process serves.

    Args:
        database: Where the counts of all gateways meet.
        secret: The same in all gateways. Without it a consumer could choose inputs that are
            taken for each other.
        sample_share: How many inputs are kept as embeddings, where they are.
    """

    def __init__(
        self, database: Database, *, secret: str, sample_share: float = QUERY_SAMPLE_SHARE
    ) -> None:
        self.database = database
        key = blake2b(secret.encode(), person=b"query-sketch", digest_size=32).digest()
        self._base = blake2b(key=key, digest_size=8)
        self._share = sample_share
        self._usages: dict[tuple[UUID, UUID], _Usage] = {}
        # Of days that are over, with counts that were not written.
        self._left: list[_Counter] = []
        self._samples: list[_Sample] = []
        self._wake = asyncio.Event()
        # A flush of the last moment waits for the one that runs.
        self._lock = asyncio.Lock()

    def admit(self, caller: Caller, offer: Offer, batches: Sequence[Sequence[Tensor]]) -> None:
        """Count a request's inputs, all or none of them.

        An account's own models are its own.

        Raises:
            QueryBudgetExceededError: The day's budget does not have room for them.
            QueryBudgetSpentError: Nor has that of all time.
        """
        if not offer.is_guarded or offer.owner_id == caller.account_id:
            return
        now_s = time.time()
        usage = self._find(caller.account_id, offer.model_id, now_s)
        places = [self._place(tensors, row) for tensors in batches for row in _rows(tensors)]
        limit = usage.total.choose_limit(offer.queries_total_max)
        if not usage.total.has_room(places, limit):
            raise QueryBudgetSpentError(limit or 0)
        limit = usage.daily.choose_limit(offer.queries_per_day_max)
        if not usage.daily.has_room(places, limit):
            left_s = _DAY_S - int(now_s) % _DAY_S
            raise QueryBudgetExceededError(limit or 0, retry_after_s=left_s)
        usage.total.add(places)
        usage.daily.add(places)
        if offer.samples_queries:
            self._sample(usage, batches, now_s)

    async def run(self) -> None:
        """Flush until cancelled: every two seconds, and at once for a consumer who is new."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUERY_FLUSH_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except Exception:  # Counting goes on in this process, whatever it was.
                logger.exception("query budgets are not flushed")
            await asyncio.sleep(_FLUSH_PAUSE_S)

    async def close(self) -> None:
        """Write what was counted in the last moment."""
        await self.flush()

    async def flush(self) -> None:
        """Merge what was counted here with what all have counted; and write the samples."""
        async with self._lock:
            began_s = time.time()
            counters = self._list_due(began_s)
            samples, self._samples = self._samples, []
            if not counters and not samples:
                return
            # A few hundred projections would keep the event loop from its callers.
            embeddings = await asyncio.to_thread(lambda: [embed(one.features) for one in samples])
            taken: list[tuple[_Counter, int]] = []
            try:
                async with self.database.transaction() as connection:
                    await _merge(connection, counters, taken)
                    await _write_samples(connection, samples, embeddings)
            except BaseException as error:
                # Once more with the next flush. Samples are not worth being kept.
                for counter, row_count in taken:
                    counter.put_back(row_count)
                if not isinstance(error, DatabaseUnavailableError | psycopg.Error):
                    raise
                logger.warning("query budgets are not flushed: %s", type(error).__name__)
                return
            self._left = [one for one in self._left if one.is_dirty or one.row_count]
            self._forget_idle(began_s)

    # --- Counting -----------------------------------------------------------------

    def _find(self, account_id: UUID, model_id: UUID, now_s: float) -> _Usage:
        day = int(now_s) // _DAY_S
        usage = self._usages.get((account_id, model_id))
        if usage is None:
            total = _Counter(account_id, model_id, TOTAL, _EPOCH)
            usage = _Usage(_begin_day(account_id, model_id, day), total, day)
            self._usages[account_id, model_id] = usage
            self._wake.set()
        elif usage.day != day:
            before = usage.daily
            self._left.append(before)
            usage.daily, usage.day = _begin_day(account_id, model_id, day), day
            usage.daily.has_own_limit = before.has_own_limit
            usage.daily.own_limit = before.own_limit
            self._wake.set()
        usage.used_s = now_s
        return usage

    def _place(self, tensors: Sequence[Tensor], row: int) -> Place:
        hashed = self._base.copy()
        for one in tensors:
            data = one.data[row]
            if one.datatype == "BYTES":
                for text in data.flat:
                    hashed.update(len(text).to_bytes(4))
                    hashed.update(text)
            else:
                # Else the same values in another shape would be the same input.
                shape = b"" if data.ndim == 1 else repr(data.shape).encode()
                hashed.update(data.nbytes.to_bytes(8) + shape)
                hashed.update(data.tobytes())
        return find_place(int.from_bytes(hashed.digest()))

    def _sample(self, usage: _Usage, batches: Sequence[Sequence[Tensor]], now_s: float) -> None:
        for tensors in batches:
            for row in _rows(tensors):
                if random.random() >= self._share:  # noqa: S311 - chance, not a secret
                    continue
                hour = int(now_s) // _HOUR_S
                if usage.sampled_hour != hour:
                    usage.sampled_hour, usage.sampled = hour, 0
                if (
                    usage.sampled >= QUERY_SAMPLES_PER_HOUR_MAX
                    or len(self._samples) >= QUERY_SAMPLES_WAITING_MAX
                ):
                    return
                usage.sampled += 1
                features = read_features([one.data for one in tensors], row)
                at = datetime.fromtimestamp(now_s, UTC)
                total = usage.total
                self._samples.append(_Sample(total.account_id, total.model_id, features, at))

    # --- Flushing -----------------------------------------------------------------

    def _list_due(self, now_s: float) -> list[_Counter]:
        """Those of consumers who came since the last flush but one, and what is left."""
        due = list(self._left)
        for usage in self._usages.values():
            counters = (usage.daily, usage.total)
            if usage.used_s > now_s - 2 * QUERY_FLUSH_S:
                due += counters
            else:
                due += [one for one in counters if one.is_dirty or one.row_count]
        return due

    def _forget_idle(self, now_s: float) -> None:
        """Drop who has not come for long, and of too many those who came longest ago."""
        by_age = sorted(self._usages.items(), key=lambda item: item[1].used_s)
        surplus = len(by_age) - QUERY_PAIRS_MAX
        for place, (key, usage) in enumerate(by_age):
            if place >= surplus and usage.used_s > now_s - QUERY_IDLE_S:
                break
            if not any(one.is_dirty or one.row_count for one in (usage.daily, usage.total)):
                del self._usages[key]


def _begin_day(account_id: UUID, model_id: UUID, day: int) -> _Counter:
    return _Counter(account_id, model_id, DAY, _EPOCH + timedelta(days=day))


async def _merge(
    connection: psycopg.AsyncConnection[Row],
    counters: Sequence[_Counter],
    taken: list[tuple[_Counter, int]],
) -> None:
    """Take over what others have counted, and write what was counted here.

    Args:
        connection: In a transaction.
        counters: Of which.
        taken: Filled with those that are written, and how many rows of each.
    """
    if not counters:
        return
    new = [one for one in counters if one.revision < 0]
    if new:
        await connection.execute(_BEGIN, _keys(new))
    revisions = [one.revision for one in counters]
    cursor = await connection.execute(_LOCK, _keys(counters) | {"revisions": revisions})
    changes: dict[str, list[Any]] = {"ids": [], "registers": [], "estimates": [], "counts": []}
    for row in await cursor.fetchall():
        counter = counters[row["place"] - 1]
        _take_over(counter, row)
        if not counter.is_dirty and not counter.row_count:
            continue
        changes["ids"].append(row["id"])
        changes["registers"].append(bytes(counter.sketch.registers) if counter.is_dirty else None)
        changes["estimates"].append(counter.sketch.estimate)
        changes["counts"].append(counter.row_count)
        taken.append((counter, counter.row_count))
        counter.revision += counter.is_dirty
        counter.is_dirty, counter.row_count = False, 0
    if taken:
        await connection.execute(_WRITE, changes)


async def _write_samples(
    connection: psycopg.AsyncConnection[Row],
    samples: Sequence[_Sample],
    embeddings: Sequence[bytes],
) -> None:
    if samples:
        accounts = [one.account_id for one in samples]
        models = [one.model_id for one in samples]
        times = [one.created_at for one in samples]
        await connection.execute(_WRITE_SAMPLES, [accounts, models, list(embeddings), times])


def _rows(tensors: Sequence[Tensor]) -> range:
    return range(tensors[0].shape[0])


def _take_over(counter: _Counter, row: Row) -> None:
    counter.revision = row["revision"]
    counter.has_own_limit, counter.own_limit = row["has_own_limit"], row["own_limit"]
    registers = row["registers"]
    if registers is None:
        return
    if not is_registers(registers):
        logger.error("the query sketch %s is not readable", row["id"])
        counter.is_dirty = True
        return
    counter.sketch.merge(registers, row["estimate"])


def _keys(counters: Sequence[_Counter]) -> dict[str, list[Any]]:
    return {
        "accounts": [one.account_id for one in counters],
        "models": [one.model_id for one in counters],
        "periods": [one.period for one in counters],
        "days": [one.starts_on for one in counters],
    }
