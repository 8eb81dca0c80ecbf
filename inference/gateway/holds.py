"""Money reserved while a prediction runs.

One statement per prediction, exact to the last nano-dollar: either the update of the
wallet's row finds enough credit, or nothing happens. A hold that is neither settled nor
voided, because this process died, expires. `inference.gateway.meter` ends all the others.
"""

from __future__ import annotations

from uuid import UUID

import psycopg

from inference.gateway.database import Database
from marketplace.core.errors import InsufficientCreditError

# SQLSTATE of ours, from billing/sql/ledger.sql.
_NOT_ENOUGH = "SR402"
# The wallet is looked up in the same statement: an account gets one with its first top-up.
_HOLD = """
    SELECT billing_hold(%s, (
        SELECT id FROM billing_ledgeraccount WHERE holder_id = %s AND kind = 'wallet'), %s, %s)
"""


class Holds:
    """Takes holds on consumers' wallets."""

    def __init__(self, database: Database, *, ttl_s: int) -> None:
        self.database = database
        self.ttl_s = ttl_s

    async def take(self, prediction_id: UUID, account_id: UUID, amount_nanos: int) -> None:
        """Reserve the most that the prediction can cost.

        Raises:
            InsufficientCreditError: The wallet holds less, or there is none.
            DatabaseUnavailableError: It may have been taken or not: void it.
        """
        try:
            await self.database.write(_HOLD, [prediction_id, account_id, amount_nanos, self.ttl_s])
        except psycopg.Error as error:
            if error.sqlstate != _NOT_ENOUGH:
                raise
            raise InsufficientCreditError(
                "The wallet does not hold enough credit for this prediction. Top it up.",
                required_nano_usd=amount_nanos,
            ) from error
