"""The queue in Postgres: each step is one function call, committed before it is told.

The functions lie in ../sql/jobs.sql. Postgres alone decides; who waits for work is woken through
`Wakeups`, and looks by itself now and then should that fail.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from inference.broker.job import (
    LEASE_S,
    QUEUED_MAX,
    Beat,
    BrokerUnavailableError,
    Ending,
    Lease,
    NewJob,
    SlotTakenError,
)
from inference.broker.wakeups import Wakeups

logger = logging.getLogger(__name__)

Row = dict[str, Any]
POOL_SIZE_MAX = 8
POOL_WAIT_S = 5.0
# A lock that is held for longer is somebody's mistake.
STATEMENT_TIMEOUT_S = 10
_SLOT_TAKEN = "SR409"

_CLAIM = """
    SELECT j.*, i.input FROM inference_claim(%s, %s, %s, %s) j
    LEFT JOIN inference_jobinput i ON i.job_id = j.id
"""
_FIND_LEASE = """
    SELECT j.*, i.input FROM inference_job j LEFT JOIN inference_jobinput i ON i.job_id = j.id
    WHERE j.id = %s AND j.lease_node_id = %s AND j.lease_epoch = %s
        AND j.state IN ('leased', 'running')
"""
_FINISH = """
    SELECT * FROM inference_finish(%(node)s, %(id)s, %(epoch)s, %(state)s, %(output)s::jsonb,
        %(error)s, %(predict_time_us)s, %(metered)s::jsonb, %(is_charged)s, %(is_kept)s)
"""
_SUBMIT = "SELECT inference_submit(%s::jsonb, %s::jsonb, %s) AS outcome"
_SUBMIT_LINE = "SELECT inference_submit_line(%s, %s::jsonb, %s::jsonb, %s) AS outcome"
_JOB_FIELDS = [one.name for one in fields(NewJob) if one.name not in ("input", "batch_line_id")]
_LEASE_FIELDS = [one.name for one in fields(Lease) if one.name not in ("node_id", "slot", "epoch")]


class PostgresBroker:
    """A `Broker`.

    Args:
        url: Of the database, as a role that may call the functions.
        wakeups: Tells who waits that there may be work.
        queued_max: Jobs of one account, waiting or running.
    """

    def __init__(
        self,
        url: str,
        wakeups: Wakeups,
        *,
        queued_max: int = QUEUED_MAX,
        pool_size_max: int = POOL_SIZE_MAX,
    ) -> None:
        self.wakeups = wakeups
        self.queued_max = queued_max
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] = AsyncConnectionPool(
            url,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": 5,
                "application_name": "strongroom-broker",
                "options": "-c synchronous_commit=on"
                f" -c statement_timeout={STATEMENT_TIMEOUT_S * 1000}",
                "tcp_user_timeout": 15_000,
            },
            min_size=1,
            max_size=pool_size_max,
            timeout=POOL_WAIT_S,
            reconnect_timeout=5,
            open=False,
        )

    async def open(self) -> None:
        """Begin to connect; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Give all connections back."""
        await self._pool.close(timeout=2)

    async def submit(self, job: NewJob) -> str:
        """See `Broker`."""
        fields = {name: getattr(job, name) for name in _JOB_FIELDS}
        given: list[Any] = [orjson.dumps(fields).decode(), orjson.dumps(job.input).decode()]
        query = _SUBMIT
        if job.batch_line_id is not None:
            query, given = _SUBMIT_LINE, [job.batch_line_id, *given]
        row = await self._fetch_one(query, [*given, self.queued_max])
        outcome = str(row["outcome"])
        if outcome == "queued":
            await self.wakeups.tell(job.version_id)
        return outcome

    async def claim(
        self, node_id: UUID, slot: int, version_ids: list[UUID], *, lease_s: float = LEASE_S
    ) -> Lease | None:
        """See `Broker`."""
        try:
            rows = await self._fetch_all(_CLAIM, [node_id, slot, version_ids, lease_s])
        except psycopg.Error as error:
            is_taken = isinstance(error, psycopg.errors.UniqueViolation)
            if is_taken or error.sqlstate == _SLOT_TAKEN:
                raise SlotTakenError from error
            raise
        if not rows:
            return None
        lease = _make_lease(rows[0])
        # Where there was one there may be more.
        self.wakeups.wake(lease.version_id)
        return lease

    async def find_lease(self, node_id: UUID, job_id: UUID, epoch: int) -> Lease | None:
        """See `Broker`."""
        rows = await self._fetch_all(_FIND_LEASE, [job_id, node_id, epoch])
        return _make_lease(rows[0]) if rows else None

    async def heartbeat(
        self, node_id: UUID, beats: list[Beat], *, lease_s: float = LEASE_S
    ) -> dict[UUID, str]:
        """See `Broker`."""
        rows = await self._fetch_all(
            "SELECT * FROM inference_heartbeat(%s, %s, %s, %s, %s)",
            [
                node_id,
                [one.id for one in beats],
                [one.epoch for one in beats],
                [one.is_running for one in beats],
                lease_s,
            ],
        )
        return {row["job_id"]: row["word"] for row in rows}

    async def finish(
        self, node_id: UUID, job_id: UUID, epoch: int, ending: Ending
    ) -> tuple[str, int]:
        """See `Broker`."""
        row = await self._fetch_one(
            _FINISH,
            {
                "node": node_id,
                "id": job_id,
                "epoch": epoch,
                "state": ending.state,
                "output": _dump(ending.output),
                "error": ending.error,
                "predict_time_us": ending.predict_time_us,
                "metered": _dump(ending.metered),
                "is_charged": ending.is_charged,
                "is_kept": ending.is_kept,
            },
        )
        return str(row["outcome"]), int(row["cost_nanos"])

    async def hand_back(
        self, node_id: UUID, job_id: UUID, epoch: int, code: str, detail: str = ""
    ) -> str:
        """See `Broker`."""
        row = await self._fetch_one(
            "SELECT inference_hand_back(%s, %s, %s, %s, %s) AS state",
            [node_id, job_id, epoch, code, detail],
        )
        await self.wakeups.tell()
        return str(row["state"])

    async def release_node(self, node_id: UUID, code: str) -> int:
        """See `Broker`."""
        count = 0
        while (
            await self._fetch_one(
                "SELECT inference_release_from_node(%s, %s) AS was_one", [node_id, code]
            )
        )["was_one"]:
            count += 1
        if count:
            await self.wakeups.tell()
        return count

    async def cancel(self, account_id: UUID, job_id: UUID) -> str | None:
        """See `Broker`."""
        row = await self._fetch_one(
            "SELECT inference_cancel_job(%s, %s) AS state", [account_id, job_id]
        )
        return row["state"]

    async def reap(self, *, steps_max: int = 1_000) -> dict[str, int]:
        """See `Broker`."""
        counts = {"lost": 0, "late": 0, "offered": 0, "returned": 0}
        for _ in range(steps_max):
            row = await self._fetch_one("SELECT inference_reap() AS what", [])
            if row["what"] is None:
                break
            counts[row["what"]] += 1
        row = await self._fetch_one("SELECT inference_return_holds(%s) AS count", [steps_max])
        counts["returned"] = row["count"]
        if counts["lost"] or counts["offered"]:
            await self.wakeups.tell()
        return counts

    async def wait_for_work(self, timeout_s: float, version_ids: list[UUID]) -> None:
        """See `Broker`."""
        await self.wakeups.wait(timeout_s, version_ids)

    async def _fetch_one(self, query: str, parameters: Any) -> Row:
        [row] = await self._fetch_all(query, parameters)
        return row

    async def _fetch_all(self, query: str, parameters: Any) -> list[Row]:
        try:
            async with (
                self._pool.connection() as connection,
                asyncio.timeout(STATEMENT_TIMEOUT_S + 2),
            ):
                cursor = await connection.execute(query, parameters, prepare=True)
                return await cursor.fetchall()
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TimeoutError) as e:
            logger.warning("broker: Postgres does not answer (%s)", type(e).__name__)
            raise BrokerUnavailableError from e


def _make_lease(row: Row) -> Lease:
    known = {name: row[name] for name in _LEASE_FIELDS}
    return Lease(
        node_id=row["lease_node_id"], slot=row["lease_slot"], epoch=row["lease_epoch"], **known
    )


def _dump(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
