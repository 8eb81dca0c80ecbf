"""How many nodes each pool should have, told to whoever orders them.

A pool is a kind of nodes. The load of a version belongs to the pools that hold its replicas, in
proportion to their number; that of a version that no node has, to the pool that
`STRONGROOM_POOL_UNPLACED` names. The formulas are those of `inference.core.scaling`.

What waits in the queue is the same for all gateways: each tells of all of it, and the largest
number counts. Requests that wait for an answer are known to the gateway that has them: each
tells of its own, and the sum counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from inference.broker.job import Priority
from inference.core import scaling
from inference.core.scaling import Load, Waiting
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.pool_settings import PoolSettings
from marketplace.core import ids
from marketplace.core.clock import utc_now

LOOK_S = 15.0
# Work that comes is a mean of so long: a minute of it says nothing, an hour comes too late. Jobs
# stay in the queue's table for twice as long after their end.
ARRIVALS_WINDOW = timedelta(minutes=5)
# A node reports every few seconds.
NODE_HEARD_S = 30

# What each version asks for. A run takes as long as those before it did, or as long as was thought
# when it came. Each part finds its rows by an index of its own.
_LOOK_JOBS = """
    SELECT w.version_id, sum(w.urgent_s)::float8 AS urgent_s, sum(w.batch_s)::float8 AS batch_s,
        sum(w.come_s)::float8 AS come_s, sum(w.busy)::float8 AS busy_slots
    FROM (
        SELECT j.version_id,
            CASE WHEN j.priority < %(batch)s THEN coalesce(p.mean_us / 1e6, j.expected_ms / 1e3)
                ELSE 0 END AS urgent_s,
            CASE WHEN j.priority < %(batch)s THEN 0
                ELSE coalesce(p.mean_us / 1e6, j.expected_ms / 1e3) END AS batch_s,
            0 AS come_s, 0 AS busy
        FROM inference_job j LEFT JOIN inference_jobpace p ON p.version_id = j.version_id
        WHERE j.state = 'queued' AND j.cancel_requested_at IS NULL
        UNION ALL
        SELECT j.version_id, 0, 0, 0, 1 FROM inference_job j WHERE j.state IN ('leased', 'running')
        UNION ALL
        SELECT j.version_id, 0, 0, coalesce(p.mean_us / 1e6, j.expected_ms / 1e3), 0
        FROM inference_job j LEFT JOIN inference_jobpace p ON p.version_id = j.version_id
        WHERE j.id >= %(since)s AND j.priority < %(batch)s
    ) w GROUP BY 1
"""
# Where versions are, or are on their way to.
_LOOK_REPLICAS = """
    SELECT r.version_id, n.pool, count(*) AS replica_count
    FROM inference_replica r JOIN inference_node n ON n.id = r.node_id
    WHERE r.wanted AND r.purpose = 'serve' AND n.revoked_at IS NULL
        AND r.state NOT IN ('failed', 'unloading', 'unloaded', 'lost')
    GROUP BY 1, 2 ORDER BY 1, 2
"""
# What should run and is not asleep, waking versions among them: they have a node of their own to
# come to, also before anybody could be told to wait.
_LOOK_AWAKE = """
    SELECT d.version_id, d.replica_count FROM inference_deployment d
    WHERE d.stopped_at IS NULL AND d.slept_at IS NULL
"""
# Nodes that answer, are not told to stop and have not said goodbye; of pools that were there within
# a day, as rows of nodes that an autoscaler made and took away add up.
_LOOK_NODES = """
    SELECT n.pool, count(*) FILTER (WHERE n.triton_ready
        AND n.drain_requested_at IS NULL AND n.left_at IS NULL
        AND n.last_seen_at > clock_timestamp() - make_interval(secs => %s)) AS ready_count
    FROM inference_node n WHERE n.revoked_at IS NULL
        AND n.last_seen_at > clock_timestamp() - interval '1 day' GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class QueueDemand:
    """What the queue asks of one pool.

    Attributes:
        nodes: Wanted, with fractions, without bounds.
        wait_s: Predicted for a job that comes now.
        ready_count: Nodes that answer.
    """

    nodes: float
    wait_s: float
    ready_count: int


@dataclass(frozen=True, slots=True)
class RequestDemand:
    """What this gateway's callers ask of one pool: pending requests, and nodes with fractions."""

    pending: float
    nodes: float


Shares = Mapping[str, float]


class Demand:
    """Keeps what was seen; nothing while Postgres does not answer.

    Args:
        database: Where the queue is.
        settings: Of the pools.
    """

    def __init__(self, database: Database, settings: PoolSettings) -> None:
        self.database = database
        self.settings = settings
        self.queue: Mapping[str, QueueDemand] | None = None
        self._shares: Mapping[UUID, Shares] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once."""
        asked = {"batch": Priority.BATCH, "since": ids.lowest_id(utc_now() - ARRIVALS_WINDOW)}
        try:
            jobs = await self.database.fetch_all(_LOOK_JOBS, asked)
            replicas = await self.database.fetch_all(_LOOK_REPLICAS)
            awake = await self.database.fetch_all(_LOOK_AWAKE)
            nodes = await self.database.fetch_all(_LOOK_NODES, [NODE_HEARD_S])
        except DatabaseUnavailableError:
            self.queue = None
            return
        self._shares = _share(replicas)
        ready = {row["pool"]: int(row["ready_count"]) for row in nodes}
        self.queue = self._add_up(jobs, awake, ready)

    def count_requests(self, pending: Iterable[tuple[UUID, int]]) -> dict[str, RequestDemand]:
        """What the requests of this gateway ask of each pool that was seen.

        Args:
            pending: Versions, and how many of their requests have no answer yet.
        """
        if self.queue is None:
            return {}
        counts = dict.fromkeys(self.queue, 0.0)
        for version_id, count in pending:
            for pool, part in self._find_pools(version_id).items():
                counts[pool] = counts.get(pool, 0.0) + count * part
        return {
            pool: RequestDemand(count, scaling.request_nodes(count, self.settings.shape(pool)))
            for pool, count in counts.items()
        }

    def _find_pools(self, version_id: UUID) -> Shares:
        return self._shares.get(version_id) or {self.settings.unplaced: 1.0}

    def _add_up(
        self, jobs: list[Row], awake: list[Row], ready: Mapping[str, int]
    ) -> dict[str, QueueDemand]:
        """By pool. One without load is told of too: silence is not the same as nothing to do."""
        sums: dict[str, dict[str, float]] = {
            pool: {} for pool in sorted({*ready, self.settings.unplaced})
        }
        for row in jobs:
            for pool, part in self._find_pools(row["version_id"]).items():
                told = sums.setdefault(pool, {})
                for name in ("urgent_s", "batch_s", "come_s", "busy_slots"):
                    told[name] = told.get(name, 0.0) + row[name] * part
        for row in awake:
            for pool, part in self._find_pools(row["version_id"]).items():
                told = sums.setdefault(pool, {})
                told["replicas"] = max(told.get("replicas", 0.0), row["replica_count"] * part)
        return {pool: self._demand(pool, told, ready.get(pool, 0)) for pool, told in sums.items()}

    def _demand(self, pool: str, told: Mapping[str, float], ready_count: int) -> QueueDemand:
        settings, shape = self.settings, self.settings.shape(pool)
        load = Load(
            waiting=(
                Waiting(told.get("urgent_s", 0.0), settings.target_wait_s.of(pool)),
                Waiting(told.get("batch_s", 0.0), settings.batch_target_wait_s.of(pool)),
            ),
            arriving=told.get("come_s", 0.0) / ARRIVALS_WINDOW.total_seconds(),
            busy_slots=told.get("busy_slots", 0.0),
            replicas=told.get("replicas", 0.0),
        )
        wait_s = scaling.predict_wait_s(
            # Who comes now with the usual urgency passes those of batches.
            load.waiting[0].work_s,
            slot_count=shape.slot_count,
            node_count=ready_count,
            cold_start_s=settings.cold_start_s.of(pool),
        )
        return QueueDemand(scaling.queue_nodes(load, shape), wait_s, ready_count)


def _share(replicas: list[Row]) -> dict[UUID, Shares]:
    """By version: the part of its replicas that each pool has."""
    counts: dict[UUID, dict[str, int]] = {}
    for row in replicas:
        counts.setdefault(row["version_id"], {})[row["pool"]] = row["replica_count"]
    return {
        version_id: {pool: count / sum(some.values()) for pool, count in some.items()}
        for version_id, some in counts.items()
    }
