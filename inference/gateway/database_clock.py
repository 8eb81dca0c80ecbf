"""The time of a gateway is the database's, however wrong the clock of its machine is.

Bookings are dated by the database itself. What a gateway dates (when keys expire, when a
prediction began, the time in its id) follows the database's clock too: it is asked for now and
then, and what the machine's differs by is made up for from then on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from inference.gateway.database import Database, DatabaseUnavailableError
from marketplace.core import clock

logger = logging.getLogger(__name__)

# Less is the clock's own noise, or the way to the database and back.
_TOLERATED = timedelta(seconds=1)
# An answer that took longer says nothing to the second.
_ANSWER_S_MAX = 1.0
_EVERY_S = 15.0
_RETRY_S = 0.5


class DatabaseClock:
    """Asks the database for the time, and corrects this process's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Nothing is served before it is known what time it is.
        self.is_known = False

    async def run(self) -> None:
        """Look at the clocks for ever."""
        while True:
            try:
                await self._look()
            except DatabaseUnavailableError:
                pass
            except Exception:
                logger.exception("the database's clock cannot be read")
            await asyncio.sleep(_EVERY_S if self.is_known else _RETRY_S)

    async def _look(self) -> None:
        began, began_s = clock.utc_now(), time.monotonic()
        row = await self._database.fetch_one("SELECT clock_timestamp() AS now")
        took_s = time.monotonic() - began_s
        if row is None or took_s > _ANSWER_S_MAX:
            # On a machine that is so slow a wrong second is not seen either.
            self.is_known = self.is_known or row is not None
            return
        self.is_known = True
        # Half of it was the way there.
        off = row["now"] - (began + timedelta(seconds=took_s / 2))
        if abs(off) > _TOLERATED:
            clock.correct(clock.read_correction() + off)
            logger.warning(
                "this machine's clock differs from the database's by %.0f s; it goes by the latter",
                clock.read_correction().total_seconds(),
            )
