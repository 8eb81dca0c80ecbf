"""Book what was answered: many predictions in one commit, before any of the answers leaves.

While one commit runs, the items of the next one gather. Where several came meanwhile, the next
one waits as long again for more of them, a few milliseconds at most: larger commits are less
work for each prediction. A lone prediction waits for nobody.

One statement books usage and transfers (`billing_settle`), stores the predictions
and completes the idempotency keys, so these are true together or not at all. It may be sent
again when the connection broke and nobody knows whether it happened: what was booked by the
first is only reported by the second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg

from inference.gateway.config import (
    FAILURES_WAITING_MAX,
    GATHER_MAX_S,
    GATHER_MIN,
    SETTLE_BATCH_MAX,
    STATEMENT_LIMIT_S,
    STORED_OUTPUT_BYTES_MAX,
)
from inference.gateway.database import DatabaseUnavailableError, Row, connect
from inference.gateway.errors import BookingUnknownError, ClaimLostError, HoldGoneError
from inference.gateway.metrics import METRICS
from inference.gateway.prediction import Prediction
from inference.gateway.time_limit import TimeLimit
from marketplace.core.clock import utc_now
from marketplace.core.errors import InsufficientCreditError, MarketplaceError

logger = logging.getLogger(__name__)

_BOOKED = frozenset({"settled", "repeated"})
_RECONNECT_S = (0.0, 0.05, 0.2, 0.5)
_LOST = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
# Classes of SQLSTATE after which the same statement may do: connection, shutdown, conflict.
_PASSING = ("08", "57P", "40")

# What was taken for one of the month's free ones, and is not.
_NOT_FREE = "SR402"
_NOT_FREE_DETAIL = (
    "The free predictions of the month are used up, and the wallet does not hold enough credit."
)

_VALUES = ("ids", "units", "gross", "completed", "created", "times")
# What many predictions have in common comes once, as a group of the document; the arrays have
# one element for each prediction. See billing/sql/usage.sql.
_ENTRY = """
    entry AS MATERIALIZED (
        SELECT i.*, g.account_id, g.api_key_id, g.version_id, g.source, g.protocol
        FROM unnest(%(ids)s::uuid[], %(nos)s::integer[], %(units)s::integer[],
                %(gross)s::bigint[], %(completed)s::timestamptz[], %(created)s::timestamptz[],
                %(times)s::bigint[])
            AS i(id, no, units, gross_nanos, completed_at, created_at, predict_time_us)
        JOIN jsonb_to_recordset(%(groups)s::jsonb) AS g(no integer, account_id uuid,
            api_key_id uuid, version_id uuid, source text, protocol text) ON g.no = i.no
    )
"""
_STORE = """
    INSERT INTO inference_prediction (id, account_id, api_key_id, version_id, state, source,
        protocol, rows, cost_nanos, output, error, predict_time_us, created_at, completed_at)
    SELECT e.id, e.account_id, e.api_key_id, e.version_id, {state}, e.source, e.protocol,
        e.units, {cost}, {output}, {error}, e.predict_time_us, e.created_at, e.completed_at
    FROM entry e {join}
    ON CONFLICT (id) DO NOTHING
"""
# The database's clock says when something is booked, and so in which month and on which day; a
# gateway's own may be wrong.
_NOW = "array_fill(clock_timestamp(), ARRAY[cardinality(%(nos)s::integer[])])"
_OUTCOME = """
    outcome AS MATERIALIZED (
        SELECT s.* FROM billing_settle(%(groups)s::jsonb,
            {ids}, %(nos)s::integer[], %(units)s::integer[], %(gross)s::bigint[],
            {now}{metered}) s
    )
"""
_SETTLED = "JOIN outcome o ON o.prediction_id = e.id AND o.outcome = 'settled'"
_STORE_SETTLED = _STORE.format(
    state="'succeeded'", cost="e.gross_nanos", output="NULL::jsonb", error="''", join=_SETTLED
)
_OUTCOME_PLAIN = _OUTCOME.format(ids="%(ids)s::uuid[]", now=_NOW, metered="")
_SETTLE = f"""
    WITH {_ENTRY}, {_OUTCOME_PLAIN}, stored AS ({_STORE_SETTLED})
    SELECT prediction_id, outcome FROM outcome WHERE outcome <> 'settled'
    UNION ALL SELECT NULL, count(*)::text FROM outcome WHERE outcome = 'settled'
"""  # noqa: S608 - put together from constants
# The same, where some requests carry an idempotency key: a run whose claim was taken over
# is left out (its id is null), and gets no outcome at all; or where some have a price that is
# rated by what was metered, so that only the booking tells what they cost.
_CLAIMED_IDS = """(
    SELECT array_agg(CASE WHEN x.prediction_id IS NULL OR c.prediction_id IS NOT NULL
        THEN i.id END ORDER BY i.place)
    FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS i(id, place)
    LEFT JOIN extra x ON x.prediction_id = i.id
    LEFT JOIN claimed c ON c.prediction_id = i.id
)"""
_OUTCOME_EACH = _OUTCOME.format(ids=_CLAIMED_IDS, now=_NOW, metered=", %(metered)s::jsonb")
_STORE_KEYED = _STORE.format(
    state="'succeeded'",
    cost="o.gross_nanos",
    output="x.output",
    error="''",
    join=_SETTLED + " LEFT JOIN extra x ON x.prediction_id = e.id",
)
_SETTLE_KEYED = f"""
    WITH {_ENTRY}, extra AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(%(extras)s::jsonb)
            AS x(prediction_id uuid, idempotency_key text, output jsonb)
    ), claimed AS MATERIALIZED (
        SELECT r.id, r.prediction_id
        FROM inference_apirequest r JOIN extra x ON x.idempotency_key = r.idempotency_key
            AND x.prediction_id = r.prediction_id
        JOIN entry e ON e.id = x.prediction_id AND e.account_id = r.account_id
        FOR UPDATE OF r
    ), {_OUTCOME_EACH}, stored AS ({_STORE_KEYED}), completed AS (
        UPDATE inference_apirequest r SET completed_at = clock_timestamp()
        FROM claimed c JOIN outcome o ON o.prediction_id = c.prediction_id
        WHERE r.id = c.id AND o.outcome = 'settled'
    )
    SELECT prediction_id, outcome, gross_nanos FROM outcome
"""  # noqa: S608 - put together from constants
# What nobody waited for any more has not failed.
_ENDED = "CASE WHEN c.code IN ('canceled', 'client_gone') THEN 'canceled' ELSE 'failed' END"
_STORE_FAILED = _STORE.format(
    state=_ENDED,
    cost="0",
    output="NULL::jsonb",
    error="c.code",
    join="JOIN code c ON c.id = e.id",
)
_FAIL = f"""
    WITH {_ENTRY}, code AS MATERIALIZED (
        SELECT c.id, c.code FROM unnest(%(ids)s::uuid[], %(codes)s::text[]) AS c(id, code)
    ), stored AS ({_STORE_FAILED})
    SELECT count(*) FROM entry
"""  # noqa: S608 - put together from constants


@dataclass(slots=True)
class _Item:
    """A prediction that waits for its booking, as it will be sent."""

    prediction_id: UUID
    prediction: Prediction
    values: tuple[str, ...]
    # The idempotency key and the output, as JSON.
    extra: bytes | None
    booked: asyncio.Future[str | None]
    was_sent: bool = False
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    """A prediction that failed, as it will be recorded."""

    prediction: Prediction
    values: tuple[str, ...]
    code: str


class Meter:
    """Books what succeeded and records what failed, on one connection of its own."""

    def __init__(self, url: str, *, wait_s: float) -> None:
        self.url = url
        self.wait_s = wait_s
        self._waiting: deque[_Item] = deque()
        self._failures: deque[_Failure] = deque()
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._committing: asyncio.Task[None] | None = None

    async def settle(self, prediction: Prediction) -> None:
        """Return once the prediction is booked on disk.

        Raises:
            DeadlineError: Its hold had expired; nothing was booked.
            ClaimLostError: A retry has taken its idempotency key over; nothing was booked.
            DatabaseUnavailableError: Postgres could not be asked; nothing is booked.
            BookingUnknownError: Postgres was asked, and has not answered.
        """
        item = _Item(
            prediction.id,
            prediction,
            _make_values(prediction),
            _make_extra(prediction),
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(item)
        self._start()
        try:
            with TimeLimit(self.wait_s):
                outcome = await item.booked
        except TimeoutError:
            if item.was_sent:
                raise BookingUnknownError from None
            with suppress(ValueError):
                self._waiting.remove(item)
            raise DatabaseUnavailableError from None
        if outcome is None:
            raise ClaimLostError(retry_after_s=1)
        if outcome not in _BOOKED:
            raise HoldGoneError("The prediction took longer than its credit was reserved for.")

    def fail(self, prediction: Prediction, code: str) -> None:
        """Record a failure; nobody waits for it."""
        if len(self._failures) >= FAILURES_WAITING_MAX:
            logger.error("prediction %s failed (%s) and is not recorded", prediction.id, code)
            return
        self._failures.append(_Failure(prediction, _make_values(prediction), code))
        self._start()

    async def drain(self, timeout_s: float) -> None:
        """Wait until all that was handed in is on disk, then close the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._committing is not None:
                    await asyncio.shield(self._committing)
        left = len(self._waiting) + len(self._failures)
        if left:
            logger.error("meter: %d items are left; their holds will expire", left)
        await self._disconnect()

    def _start(self) -> None:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        took_s = 0.0
        try:
            while self._waiting or self._failures:
                if GATHER_MIN <= len(self._waiting) < SETTLE_BATCH_MAX:
                    await asyncio.sleep(min(took_s, GATHER_MAX_S))
                if self._waiting:
                    started_s = time.monotonic()
                    count = min(len(self._waiting), SETTLE_BATCH_MAX)
                    await self._settle([self._waiting.popleft() for _ in range(count)])
                    took_s = time.monotonic() - started_s
                if self._failures:
                    count = min(len(self._failures), SETTLE_BATCH_MAX)
                    await self._record([self._failures.popleft() for _ in range(count)])
        finally:
            self._committing = None

    async def _settle(self, items: Sequence[_Item]) -> None:
        """Book a batch, as often as it takes to know its outcome."""
        attempt = 0
        while items := [one for one in items if not one.booked.done()]:
            try:
                outcomes = await self._send_settle(items)
            except (psycopg.Error, OSError) as error:
                if _is_passing(error):
                    await self._recover(error, attempt)
                    attempt += 1
                else:
                    await self._settle_alone(items, error)
            else:
                for one in items:
                    if not one.booked.done():
                        one.booked.set_result(outcomes.get(one.prediction_id))

    async def _settle_alone(self, items: Sequence[_Item], error: psycopg.Error | OSError) -> None:
        """Postgres refused the batch: find the item it refuses, and book the others."""
        if len(items) > 1:
            for one in items:
                await self._settle([one])
            return
        if isinstance(error, psycopg.errors.UniqueViolation) and not items[0].is_repeated:
            # A free prediction has no hold that would have made this wait for an earlier,
            # cut statement of ours. That one has booked it, as the repeat will tell.
            items[0].is_repeated = True
            await self._settle(items)
            return
        if getattr(error, "sqlstate", None) == _NOT_FREE and not items[0].booked.done():
            items[0].booked.set_exception(InsufficientCreditError(_NOT_FREE_DETAIL))
            return
        logger.error("prediction %s cannot be booked: %r", items[0].prediction_id, error)
        if not items[0].booked.done():
            items[0].booked.set_exception(MarketplaceError())

    async def _send_settle(self, items: Sequence[_Item]) -> dict[UUID, str]:
        connection = await self._connect()
        # Who has been told meanwhile that nothing was booked must not be booked now.
        items = [one for one in items if not one.booked.done()]
        if not items:
            return {}
        for one in items:
            one.was_sent = True
        parameters = _render(items)
        extras = [one.extra for one in items if one.extra is not None]
        is_rated = any(one.prediction.is_rated for one in items)
        is_each_told = is_rated or bool(extras)
        if is_each_told:
            parameters["extras"] = (b"[" + b",".join(extras) + b"]").decode()
            metered = [one.prediction.metered for one in items]
            parameters["metered"] = orjson.dumps(metered).decode() if is_rated else None
        started_s = time.monotonic()
        rows = await _execute(connection, _SETTLE_KEYED if is_each_told else _SETTLE, parameters)
        METRICS.observe_settle_batch(len(items), time.monotonic() - started_s)
        outcomes = {row["prediction_id"]: row["outcome"] for row in rows}
        if is_rated:
            _note_costs(items, rows)
        if is_each_told:
            return outcomes
        # Only what was not simply booked is named, and the others are counted.
        count = int(outcomes.pop(None))
        if count + len(outcomes) != len(items):
            raise MarketplaceError(f"{count} of {len(items)} predictions were booked")
        settled = {one.prediction_id: "settled" for one in items}
        return settled | outcomes

    async def _record(self, entries: Sequence[_Failure]) -> None:
        parameters = _render(entries) | {"codes": [one.code for one in entries]}
        try:
            await _execute(await self._connect(), _FAIL, parameters)
        except (psycopg.Error, OSError) as error:
            if _is_passing(error):
                # Those who wait for a booking go first; then these are tried again.
                self._failures.extendleft(reversed(entries))
                await self._recover(error, len(_RECONNECT_S))
                return
            if len(entries) > 1:
                for one in entries:
                    await self._record([one])
                return
            logger.error("a failure cannot be recorded: %r", error)

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self.url, durable=True)
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()

    async def _recover(self, error: BaseException, attempt: int) -> None:
        logger.warning("meter: Postgres does not answer (%s)", type(error).__name__)
        await self._disconnect()
        await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])


def _is_passing(error: psycopg.Error | OSError) -> bool:
    """Whether the statement itself is not to blame: it may be sent again as it is."""
    if not isinstance(error, _LOST):
        return False
    state = getattr(error, "sqlstate", None)
    return state is None or state.startswith(_PASSING)


async def _execute(
    connection: psycopg.AsyncConnection[Row], query: LiteralString, parameters: dict[str, Any]
) -> list[Row]:
    # Postgres ends a statement that runs too long; this ends one that it never got.
    async with asyncio.timeout(STATEMENT_LIMIT_S):
        cursor = await connection.execute(query, parameters, prepare=True)
        return await cursor.fetchall()


def _note_costs(items: Sequence[_Item], rows: Sequence[Row]) -> None:
    costs = {row["prediction_id"]: row["gross_nanos"] for row in rows}
    for one in items:
        nanos = costs.get(one.prediction_id)
        if one.prediction.is_rated and nanos is not None:
            one.prediction.gross_nanos = nanos


def _render(items: Sequence[_Item] | Sequence[_Failure]) -> dict[str, Any]:
    """The parameters of a statement: groups, and an array for each value."""
    numbers: dict[tuple[int | str, ...], str] = {}
    groups: list[dict[str, Any]] = []
    nos = []
    for one in items:
        key = _identify_group(one.prediction)
        no = numbers.get(key)
        if no is None:
            no = numbers[key] = str(len(groups))
            groups.append({"no": len(groups), **_make_group(one.prediction)})
        nos.append(no)
    columns = zip(*(one.values for one in items), strict=True)
    parameters: dict[str, Any] = {
        name: "{" + ",".join(column) + "}" for name, column in zip(_VALUES, columns, strict=True)
    }
    parameters["nos"] = "{" + ",".join(nos) + "}"
    parameters["groups"] = orjson.dumps(groups).decode()
    return parameters


def _identify_group(prediction: Prediction) -> tuple[int | str, ...]:
    """The same for predictions with the same group, as long as these are not forgotten."""
    draw = prediction.draw
    hold = id(draw.hold) if draw is not None else 0
    return (id(prediction.caller), id(prediction.offer), hold, prediction.protocol, prediction.tag)


def _make_group(prediction: Prediction) -> dict[str, Any]:
    """What a prediction has in common with others of its caller, offer, hold and tag."""
    caller, offer, draw = prediction.caller, prediction.offer, prediction.draw
    return {
        "account_id": caller.account_id,
        "api_key_id": caller.key_id,
        "version_id": offer.version_id,
        "creator_id": offer.owner_id,
        "price_id": prediction.price.id,
        "mode": prediction.mode,
        "hold_id": None if draw is None else draw.hold.id,
        "source": caller.source,
        "protocol": prediction.protocol,
        "tag": prediction.tag,
    }


def _make_values(prediction: Prediction) -> tuple[str, ...]:
    """In the order of `_VALUES`, as Postgres writes them in an array."""
    return (
        prediction.id.hex,
        str(prediction.rows),
        str(prediction.gross_nanos),
        f'"{prediction.completed_at or utc_now()}"',
        f'"{prediction.created_at}"',
        str(round(prediction.predict_time_s * 1e6)),
    )


def _make_extra(prediction: Prediction) -> bytes | None:
    claim = prediction.claim
    if claim is None:
        return None
    output = orjson.dumps(prediction.output)
    is_kept = len(output) <= STORED_OUTPUT_BYTES_MAX
    return orjson.dumps(
        {
            "prediction_id": prediction.id,
            "idempotency_key": claim.key,
            "output": orjson.Fragment(output if is_kept else b"null"),
        }
    )
