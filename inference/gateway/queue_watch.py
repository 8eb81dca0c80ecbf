"""Look at the queue now and then, so that whoever watches the gateways is told of it.

Every gateway sees the same queue: of their numbers the largest counts, not the sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from inference.broker.job import Priority
from inference.gateway.database import Database, DatabaseUnavailableError

# As often as Prometheus asks by default. Counting a queue at its limit takes tens of milliseconds.
LOOK_S = 15.0

_LOOK = """
    SELECT p.priority, coalesce(q.waiting, 0) AS waiting,
        coalesce(extract(epoch FROM clock_timestamp() - q.oldest_at), 0)::float8 AS oldest_s,
        (SELECT count(*) FROM inference_job d
            WHERE d.finished_at IS NOT NULL AND d.state = 'dead') AS dead
    FROM unnest(%s::smallint[]) AS p(priority) LEFT JOIN (
        SELECT j.priority, count(*) AS waiting, min(j.created_at) AS oldest_at
        FROM inference_job j WHERE j.state = 'queued' GROUP BY 1
    ) q ON q.priority = p.priority ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class QueueClass:
    """What waits of one class of priority, and for how long the first one does."""

    name: str
    waiting: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue as it was seen last."""

    classes: Sequence[QueueClass]
    dead: int


class QueueWatch:
    """Keeps what was seen; nothing while Postgres does not answer.

    Args:
        database: Where the queue is.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.seen: QueueState | None = None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once."""
        try:
            rows = await self.database.fetch_all(_LOOK, [[one.value for one in Priority]])
        except DatabaseUnavailableError:
            self.seen = None
            return
        classes = [
            QueueClass(Priority(row["priority"]).name.lower(), row["waiting"], row["oldest_s"])
            for row in rows
        ]
        self.seen = QueueState(classes, rows[0]["dead"])
