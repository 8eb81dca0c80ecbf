"""Money reserved while a prediction runs, for many predictions in one statement.

Exact to the last nano-dollar: either a wallet's row has enough credit left, or nothing is
reserved. As with bookings there is no timer: what comes while a statement runs goes with the
next one. A hold that is neither settled nor voided, because this process died, expires.
`inference.gateway.meter` ends all the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from inference.gateway.config import HOLD_BATCH_MAX, HOLD_STATEMENTS_MAX
from inference.gateway.database import Database
from inference.gateway.errors import copy_for_another
from marketplace.core.errors import InsufficientCreditError, MarketplaceError

_HOLD = "SELECT prediction_id, outcome FROM billing_hold_many(%s::jsonb, %s)"


@dataclass(slots=True)
class _Item:
    """A prediction that waits for its money."""

    prediction_id: UUID
    account_id: UUID
    amount_nanos: int
    outcome: asyncio.Future[str | None]

    def to_json(self) -> dict[str, object]:
        return {
            "prediction_id": self.prediction_id,
            "account_id": self.account_id,
            "amount_nanos": self.amount_nanos,
        }


class Holds:
    """Takes holds on consumers' wallets.

    Args:
        database: Whose pool is used.
        ttl_s: After how long a hold that nobody ended expires.
    """

    def __init__(self, database: Database, *, ttl_s: int) -> None:
        self.database = database
        self.ttl_s = ttl_s
        self._waiting: deque[_Item] = deque()
        self._sending: set[asyncio.Task[None]] = set()

    async def take(self, prediction_id: UUID, account_id: UUID, amount_nanos: int) -> None:
        """Reserve the most that the prediction can cost.

        Raises:
            InsufficientCreditError: The wallet holds less, or there is none.
            DatabaseUnavailableError: It may have been taken or not: void it.
        """
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(prediction_id, account_id, amount_nanos, outcome))
        # A second statement for those who came while the first waits for another's lock.
        if len(self._sending) < HOLD_STATEMENTS_MAX:
            task = asyncio.create_task(self._send_waiting())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        said = await outcome
        if said == "insufficient_credit":
            raise InsufficientCreditError(
                "The wallet does not hold enough credit for this prediction. Top it up.",
                required_nano_usd=amount_nanos,
            )
        if said != "held":
            raise MarketplaceError

    async def _send_waiting(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), HOLD_BATCH_MAX)
            taken = [self._waiting.popleft() for _ in range(count)]
            # Who is not there any more needs no money.
            items = [one for one in taken if not one.outcome.done()]
            if items:
                await self._send(items)

    async def _send(self, items: Sequence[_Item]) -> None:
        document = orjson.dumps([one.to_json() for one in items]).decode()
        try:
            rows = await self.database.write(_HOLD, [document, self.ttl_s])
        except BaseException as error:
            for one in items:
                if not one.outcome.done():
                    one.outcome.set_exception(copy_for_another(error))
            if not isinstance(error, Exception):
                raise
            return
        said = {row["prediction_id"]: row["outcome"] for row in rows}
        for one in items:
            if not one.outcome.done():
                one.outcome.set_result(said.get(one.prediction_id))
