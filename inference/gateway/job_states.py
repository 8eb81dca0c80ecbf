"""Where jobs stand: for all who watch one, in one statement at a time."""

from __future__ import annotations

import asyncio
from uuid import UUID

from inference.gateway.config import WATCH_GATHER_S
from inference.gateway.database import Database, Row
from marketplace.core.errors import MarketplaceError

_LOOK = """
    SELECT j.id, j.state, j.lease_epoch, j.attempt,
        j.cancel_requested_at IS NOT NULL AS is_canceling
    FROM inference_job j WHERE j.id = ANY(%s)
"""


class JobStates:
    """Looks at the rows of many jobs together."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: dict[UUID, list[asyncio.Future[Row | None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def look(self, job_id: UUID) -> Row | None:
        """A job as it is now: state, lease_epoch, attempt, is_canceling; None if it is no job.

        Raises:
            DatabaseUnavailableError: It is not known.
        """
        found: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(found)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await found

    async def _look(self) -> None:
        await asyncio.sleep(WATCH_GATHER_S)
        asked, self._waiting, self._looking = self._waiting, {}, None
        try:
            rows = await self.database.fetch_all(_LOOK, [list(asked)])
        except BaseException as error:
            failure = error if isinstance(error, MarketplaceError) else MarketplaceError()
            for one in [one for many in asked.values() for one in many if not one.done()]:
                one.set_exception(failure)
            if not isinstance(error, MarketplaceError):
                raise
            return
        known = {row["id"]: row for row in rows}
        for job_id, many in asked.items():
            for one in many:
                if not one.done():
                    one.set_result(known.get(job_id))
