"""From the lines of batches into the queue, a portion at a time, with all that a request meets.

Whoever takes a batch has it for some seconds. Each line is put into the queue and noted as queued
in one transaction, so that a gateway that dies in between loses none and doubles none. What the
queue does not take stays with the batch: the portion ends, and the next one comes later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from uuid import UUID

import psycopg

from inference.broker.job import TIMEOUT_MAX_S, Priority
from inference.gateway.auth import PREDICT, Authenticator, Caller
from inference.gateway.catalog import Catalog, Offer, Priced, require_batch_price
from inference.gateway.config import (
    BATCH_LEASE_S,
    BATCH_LOOK_S,
    BATCH_PAUSE_S,
    BATCH_PORTION_LINES,
    BATCH_PORTION_S,
    BATCH_PRICES_KEPT_MAX,
    BATCH_UNREAD_LINES,
    BATCH_WINDOW_LINES,
)
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.errors import (
    KeyModeForbiddenError,
    QueryBudgetSpentError,
    UnitsExceedLimitError,
)
from inference.gateway.input_files import fetch_named
from inference.gateway.jobs import Jobs, LineGoneError, Wish
from inference.gateway.prediction import Prediction
from inference.triton import tensors
from inference.triton.errors import TensorError
from marketplace.core.clock import utc_now
from marketplace.core.errors import (
    InvalidInputError,
    LimitExceededError,
    MarketplaceError,
    NotFoundError,
)
from marketplace.core.ids import new_id
from strongroom.errors import InputError

logger = logging.getLogger(__name__)

PROTOCOL = "native"
_TAKE = "SELECT * FROM inference_take_batch(%s)"
_LINES = "SELECT * FROM inference_list_batch_lines(%s, %s, %s, %s)"
_FAIL = "SELECT inference_fail_line(%s, %s, %s)"
_PRICE = (
    "SELECT to_jsonb(p) AS price FROM billing_price p WHERE p.id = (SELECT billing_batch_price(%s))"
)
_NOTE = "SELECT inference_note_portion(%s, %s, %s, %s, %s)"
# Of a line's own making: no later try would end better.
_LINE_FAULTS = (InvalidInputError, QueryBudgetSpentError, UnitsExceedLimitError)


@dataclass(frozen=True, slots=True)
class _Portion:
    """How a portion ended.

    Args:
        wait_s: When to look at the batch again.
        reason: Why not all of it could go on; empty for nothing.
        detail: In words.
        is_paused: Whether it stands still until the reason is gone.
    """

    wait_s: float
    reason: str = ""
    detail: str = ""
    is_paused: bool = False


class Batches:
    """Puts lines of batches into the queue, for ever.

    Args:
        jobs: Accepts them.
        authenticator: Knows who may call now.
        catalog: Knows what is offered now.
        database: Where batches are.
    """

    def __init__(
        self, jobs: Jobs, authenticator: Authenticator, catalog: Catalog, database: Database
    ) -> None:
        self.jobs = jobs
        self.authenticator = authenticator
        self.catalog = catalog
        self.database = database
        self._prices: dict[UUID, Priced] = {}

    async def run(self) -> None:
        """Take batches in their turn; whatever goes wrong, go on with the next one."""
        while True:
            try:
                if await self.submit_portion():
                    continue
            except DatabaseUnavailableError:
                pass
            except psycopg.Error:
                logger.exception("batches: Postgres refused a step")
            except Exception:  # One batch must not stop all others.
                logger.exception("batches: a portion broke off")
            await asyncio.sleep(BATCH_LOOK_S)

    async def submit_portion(self) -> bool:
        """Put a portion of the batch whose turn it is into the queue; whether there was one."""
        rows = await self.database.write(_TAKE, [BATCH_LEASE_S])
        if not rows:
            return False
        [batch] = rows
        try:
            portion = await self._submit(batch)
        except LimitExceededError as error:
            portion = _Portion(_wait_of(error), error.code, error.detail)
        except DatabaseUnavailableError:
            raise
        except MarketplaceError as error:
            # No credit, a key that was revoked, a version that is not offered: it may pass, or
            # somebody has to do something. Both are tried again.
            portion = _Portion(BATCH_PAUSE_S, error.code, error.detail, is_paused=True)
        state = "paused" if portion.is_paused else "running"
        await self.database.write(
            _NOTE, [batch["id"], state, portion.reason, portion.detail, portion.wait_s]
        )
        return True

    async def _submit(self, batch: Row) -> _Portion:
        """Raises what stops the batch; what is wrong with a line is noted at the line."""
        if (batch["deadline_at"] - utc_now()).total_seconds() < 1:
            # Nothing that begins now would end in time.
            return _Portion(BATCH_LOOK_S)
        caller = await self.authenticator.find_caller(batch["account_id"], batch["api_key_id"])
        caller.require(PREDICT)
        caller.require_paid()
        offer = await self.catalog.find_version(batch["version_id"])
        if offer.is_private and offer.owner_id != caller.account_id:
            raise NotFoundError("The version is not offered to the account any more.")
        caller.require_model(offer.model)
        if caller.is_test and offer.owner_id != caller.account_id:
            raise KeyModeForbiddenError
        # One that is paused tries with a single line whether it may go on.
        limit = 1 if batch["state"] == "paused" else BATCH_PORTION_LINES
        lines = await self.database.write(
            _LINES, [batch["id"], limit, BATCH_WINDOW_LINES, BATCH_UNREAD_LINES]
        )
        if not lines or lines[0]["id"] is None:
            # All are in the queue, or as many as may be.
            return _Portion(BATCH_LOOK_S)
        ends_s = time.monotonic() + BATCH_PORTION_S
        price = await self._find_price(require_batch_price(offer, caller))
        for line in lines:
            await self._submit_line(batch, line, caller, offer, price)
            if time.monotonic() > ends_s:
                break
        return _Portion(0.0)

    async def _find_price(self, whole: Priced) -> Priced:
        """What lines cost where everybody else pays `whole`: a price of its own, if it is less."""
        if whole.batch_percent == 100:
            return whole
        found = self._prices.get(whole.id)
        if found is None:
            [row] = await self.database.write(_PRICE, [whole.id])
            found = Priced.from_row(row["price"])
            if len(self._prices) >= BATCH_PRICES_KEPT_MAX:
                self._prices.clear()
            # A price never changes.
            self._prices[whole.id] = found
        return found

    async def _submit_line(
        self, batch: Row, line: Row, caller: Caller, offer: Offer, price: Priced
    ) -> None:
        """Raises what stops the whole batch."""
        left_s = (batch["deadline_at"] - utc_now()).total_seconds()
        try:
            checked = offer.interface.check_input(line["input"])
            files = self.jobs.predictor.files
            named = await fetch_named(files, caller.account_id, offer.interface, checked)
            inputs = tensors.encode(offer.interface, [named])
            prediction = Prediction(
                id=new_id(),
                caller=caller,
                offer=offer,
                price=price,
                protocol=PROTOCOL,
                rows=1,
                created_at=utc_now(),
                deadline_s=math.inf,
                tag=batch["tag"],
            )
            wish = Wish(
                priority=Priority.BATCH,
                timeout_s=min(TIMEOUT_MAX_S, max(1.0, left_s)),
                batch_line_id=line["id"],
            )
            await self.jobs.submit(prediction, inputs, checked, wish)
        except LineGoneError:
            pass
        except InputError as error:
            first = error.errors[0]
            await self._fail(line, "validation", f"{first['pointer']}: {first['detail']}")
        except TensorError as error:
            await self._fail(line, "validation", str(error))
        except _LINE_FAULTS as error:
            await self._fail(line, error.code, error.detail)

    async def _fail(self, line: Row, code: str, detail: str) -> None:
        await self.database.write(_FAIL, [line["id"], code, detail.replace("\x00", "")])


def _wait_of(error: MarketplaceError) -> float:
    return float(min(max(error.retry_after_s or 1, 1), BATCH_PAUSE_S))
