"""Money reserved before a prediction runs: slices of wallets, drawn on without a round trip.

An account that pays later has a credit limit in the place of a wallet; here they are the same.

`billing_reserve` gives a gateway a slice of a wallet that is far from its floor, and exactly
one prediction's price of one that is near it. Predictions draw on the slice in memory; what
they cost is posted to it when they are booked (`inference.gateway.meter`), and what nobody
draws goes back after a moment, or at once when another gateway asks for it. No wallet can be
overdrawn: what was not reserved in Postgres cannot be drawn, and what was drawn and not
booked is given back by nobody else before the hold expires.

As with bookings there is no timer: what comes while a statement runs goes with the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson
import psycopg

from inference.gateway.auth import Caller
from inference.gateway.config import (
    HOLD_BATCH_MAX,
    HOLD_STATEMENTS_MAX,
    HOLD_USE_S,
    SLICE_NANOS_MAX,
    SLICE_PREDICTIONS_MIN,
)
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.errors import BudgetExceededError, copy_for_another
from marketplace.core.errors import InsufficientCreditError, MarketplaceError
from marketplace.core.ids import new_id

logger = logging.getLogger(__name__)

_RESERVE = "SELECT * FROM billing_reserve(%s::jsonb, %s)"
_GIVE_BACK = "SELECT billing_give_back(%s::uuid[], %s::bigint[])"
_SWEEP_S = 0.5
# A slice that was used up within this time was too small, one that was not idle too large.
_SHORT_S = 1.0
_GROWTH = 4
# Others may hold what a wallet is short of; they give it back within moments of a notice.
_RETURN_WAITS_S = (0.03, 0.1, 0.3)
# After such a notice, an account's predictions reserve their own price for so long.
_EXACT_S = 5.0
_DAY_S = 86_400


@dataclass(slots=True, eq=False)
class Hold:
    """Money of one wallet, or credit, that this gateway has reserved."""

    id: UUID
    left_nanos: int
    size_nanos: int
    # On the clock of time.monotonic: afterwards nothing new is drawn.
    until_s: float
    used_s: float


@dataclass(slots=True, eq=False)
class Draw:
    """What one prediction has reserved."""

    hold: Hold
    pot: _Pot
    nanos: int


@dataclass(slots=True, eq=False)
class _Asked:
    """A prediction that waits for its money."""

    nanos: int
    found: asyncio.Future[Draw]
    tries: int = 0


@dataclass(slots=True, eq=False)
class _Pot:
    """The slices of one account, or of one of its keys that has a budget."""

    account_id: UUID
    api_key_id: UUID | None
    hold: Hold | None = None
    want_nanos: int = 0
    # Near the floor, and after a notice until then: no slices.
    is_poor: bool = False
    exact_until_s: float = 0.0
    filled_s: float = 0.0
    waiting: deque[_Asked] = field(default_factory=deque)
    is_asking: bool = False
    # How many were refused, and will ask again in a moment.
    trying_again: int = 0


class Holds:
    """Reserves money; a `Listener` of other gateways' need for it.

    Args:
        database: Whose pool is used.
        ttl_s: After how long a hold expires in Postgres, if this process dies.
    """

    def __init__(self, database: Database, *, ttl_s: int) -> None:
        self.database = database
        self.ttl_s = ttl_s
        self._pots: dict[UUID, _Pot] = {}
        self._hungry: deque[_Pot] = deque()
        self._back: dict[UUID, int | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = 0
        self._hears = False
        self._giving: asyncio.Task[None] | None = None

    def draw(self, caller: Caller, nanos: int) -> Draw | None:
        """Reserve from the slice that is here; None if `take` must ask for one."""
        pot = self._find_pot(caller)
        hold = pot.hold
        if hold is None or hold.left_nanos < nanos or pot.waiting:
            return None
        now_s = time.monotonic()
        if now_s >= hold.until_s:
            return None
        hold.used_s = now_s
        return _draw(pot, hold, nanos)

    async def take(self, caller: Caller, nanos: int) -> Draw:
        """Reserve the most that a prediction can cost.

        Raises:
            InsufficientCreditError: The wallet holds less, or the credit limit leaves less.
            BudgetExceededError: A budget of the key leaves less.
            DatabaseUnavailableError: Postgres could not be asked.
        """
        drawn = self.draw(caller, nanos)
        if drawn is not None:
            return drawn
        pot = self._find_pot(caller)
        asked = _Asked(nanos, asyncio.get_running_loop().create_future())
        pot.waiting.append(asked)
        self._ask(pot)
        try:
            return await asked.found
        except asyncio.CancelledError:
            if asked.found.done() and not asked.found.cancelled() and not asked.found.exception():
                self.put_back(asked.found.result())
            raise

    def put_back(self, draw: Draw) -> None:
        """Nothing was booked on it, and nothing will be."""
        hold = draw.hold
        hold.left_nanos += draw.nanos
        if draw.pot.hold is not hold:
            self._retire(hold)

    def lose(self, draw: Draw) -> None:
        """It may have been booked or not, or its hold is gone: draw nothing more on that.

        What the booking did not take is released when the hold expires.
        """
        if draw.pot.hold is draw.hold:
            self._drop(draw.pot)

    async def run(self) -> None:
        """Give back for ever what lies idle."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._sweep(time.monotonic())

    async def close(self) -> None:
        """Give everything back, and what is asked for at this moment as soon as it comes."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for pot in self._pots.values():
            self._drop(pot)
        while self._giving is not None:
            await self._giving

    def on_change(self, table: str, row_id: str) -> None:
        """Another gateway needs what this account's slices hold, or a key's budget changed."""
        if table == "billing_hold":
            for pot in self._list_pots(row_id):
                pot.exact_until_s = time.monotonic() + _EXACT_S
                self._drop(pot)
        elif table == "marketplace_apikey":
            for pot in self._pots.values():
                if str(pot.api_key_id) == row_id:
                    self._drop(pot)

    def on_listening(self) -> None:
        """From now on others can ask for what is here."""
        self._hears = True

    def on_deaf(self) -> None:
        """Others cannot ask for what is here: nothing is kept, and no slices are taken."""
        self._hears = False
        for pot in self._pots.values():
            self._drop(pot)

    def _find_pot(self, caller: Caller) -> _Pot:
        """One of the account's, or of the key's where a budget counts what it reserves."""
        owner_id = caller.key_id if caller.has_budget and caller.key_id else caller.account_id
        pot = self._pots.get(owner_id)
        if pot is None:
            key_id = caller.key_id if caller.has_budget else None
            pot = self._pots[owner_id] = _Pot(caller.account_id, key_id)
        return pot

    def _list_pots(self, account_id: str) -> Iterator[_Pot]:
        return (one for one in self._pots.values() if str(one.account_id) == account_id)

    def _sweep(self, now_s: float) -> None:
        for owner_id, pot in list(self._pots.items()):
            hold = pot.hold
            if hold is not None and (now_s >= hold.until_s or now_s - hold.used_s > _SHORT_S):
                if hold.left_nanos * 2 > hold.size_nanos:
                    pot.want_nanos //= _GROWTH
                self._drop(pot)
            elif _is_unused(pot) and now_s - pot.filled_s > self.ttl_s:
                del self._pots[owner_id]

    def _drop(self, pot: _Pot) -> None:
        """Draw no more on the slice that is here."""
        hold, pot.hold = pot.hold, None
        if hold is not None:
            self._retire(hold)

    def _retire(self, hold: Hold) -> None:
        """Give back what is left of a hold on which nothing new is drawn."""
        if hold.left_nanos > 0:
            self._return(hold.id, hold.left_nanos)
            hold.left_nanos = 0

    def _return(self, hold_id: UUID, nanos: int | None) -> None:
        """Give back a part of a hold; None: all that is left of it."""
        earlier = self._back.get(hold_id, 0)
        self._back[hold_id] = None if nanos is None or earlier is None else earlier + nanos
        if self._giving is None:
            self._giving = asyncio.create_task(self._give_back())

    async def _give_back(self) -> None:
        try:
            while self._back:
                given, self._back = self._back, {}
                try:
                    await self.database.write(_GIVE_BACK, [list(given), list(given.values())])
                except (DatabaseUnavailableError, psycopg.Error):
                    logger.warning("%d holds are given back when they expire", len(given))
        finally:
            self._giving = None

    def _ask(self, pot: _Pot) -> None:
        """See that those who wait at a pot are asked for."""
        if not pot.is_asking:
            pot.is_asking = True
            self._hungry.append(pot)
        # A second statement for those who came while the first waits for another's lock.
        if self._asking < HOLD_STATEMENTS_MAX:
            self._asking += 1
            task = asyncio.create_task(self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self) -> None:
        try:
            while self._hungry:
                count = min(len(self._hungry), HOLD_BATCH_MAX)
                await self._reserve([self._hungry.popleft() for _ in range(count)])
        finally:
            self._asking -= 1

    async def _reserve(self, pots: Sequence[_Pot]) -> None:
        """One statement for the pots; then those still waiting at them are asked for again."""
        until_s = time.monotonic() + _limit_use(HOLD_USE_S)
        asked = {new_id(): (pot, one) for pot in pots for one in self._choose(pot)}
        try:
            rows = await self._send(asked) if asked else []
        except BaseException as error:
            self._fail(asked, error)
            if not isinstance(error, Exception):
                raise
        else:
            for row in rows:
                pot, one = asked[row["hold_id"]]
                if row["outcome"] == "held":
                    self._deliver(pot, one, row["hold_id"], row["amount_nanos"], until_s)
                else:
                    self._refuse(pot, one, row["outcome"], may_return=bool(row["may_return"]))
        for pot in pots:
            pot.is_asking = False
            self._drain(pot)
            if pot.waiting:
                self._ask(pot)

    async def _send(self, asked: Mapping[UUID, tuple[_Pot, _Asked]]) -> list[Row]:
        sized: set[UUID] = set()
        items = []
        for hold_id, (pot, one) in asked.items():
            owner_id = pot.api_key_id or pot.account_id
            # Of several from one pot, the first may bring a slice for all.
            most_nanos = one.nanos if owner_id in sized else self._size(pot, one.nanos)
            sized.add(owner_id)
            items.append(
                {
                    "hold_id": hold_id,
                    "account_id": pot.account_id,
                    "api_key_id": pot.api_key_id,
                    "least_nanos": one.nanos,
                    "most_nanos": most_nanos,
                }
            )
        return await self.database.write(_RESERVE, [orjson.dumps(items).decode(), self.ttl_s])

    def _fail(self, asked: Mapping[UUID, tuple[_Pot, _Asked]], error: BaseException) -> None:
        for hold_id, (_, one) in asked.items():
            # Whether Postgres did it is not known.
            self._return(hold_id, None)
            if not one.found.done():
                one.found.set_exception(copy_for_another(error))

    def _choose(self, pot: _Pot) -> list[_Asked]:
        """Who is asked for now: one, whose slice may serve all; near the floor each one."""
        while pot.waiting and pot.waiting[0].found.done():
            pot.waiting.popleft()
        if not pot.waiting:
            return []
        if not pot.is_poor and time.monotonic() >= pot.exact_until_s:
            return [pot.waiting.popleft()]
        chosen = [one for one in pot.waiting if not one.found.done()][:HOLD_BATCH_MAX]
        for one in chosen:
            pot.waiting.remove(one)
        return chosen

    def _size(self, pot: _Pot, nanos: int) -> int:
        """How large the next slice should be, if the wallet allows it."""
        now_s = time.monotonic()
        if now_s < pot.exact_until_s or not self._hears:
            return nanos
        if now_s - pot.filled_s < _SHORT_S:
            pot.want_nanos *= _GROWTH
        pot.filled_s = now_s
        pot.want_nanos = min(max(pot.want_nanos, nanos * SLICE_PREDICTIONS_MIN), SLICE_NANOS_MAX)
        return max(pot.want_nanos, nanos)

    def _deliver(
        self, pot: _Pot, one: _Asked, hold_id: UUID, amount_nanos: int, until_s: float
    ) -> None:
        pot.is_poor = amount_nanos == one.nanos
        hold = Hold(hold_id, amount_nanos, amount_nanos, until_s, time.monotonic())
        if not pot.is_poor:
            self._drop(pot)
            pot.hold = hold
        if one.found.done():
            if pot.hold is not hold:
                self._retire(hold)
        else:
            one.found.set_result(_draw(pot, hold, one.nanos))

    def _refuse(self, pot: _Pot, one: _Asked, outcome: str, *, may_return: bool) -> None:
        if one.found.done():
            return
        pot.is_poor = True
        # What is left here may be what it lacks.
        self._drop(pot)
        if may_return and one.tries < len(_RETURN_WAITS_S):
            wait_s = _RETURN_WAITS_S[one.tries]
            one.tries += 1
            pot.trying_again += 1
            asyncio.get_running_loop().call_later(wait_s, self._ask_again, pot, one)
            return
        one.found.set_exception(_make_refusal(outcome, one.nanos))

    def _ask_again(self, pot: _Pot, one: _Asked) -> None:
        pot.trying_again -= 1
        if not one.found.done():
            pot.waiting.append(one)
            self._ask(pot)

    def _drain(self, pot: _Pot) -> None:
        """Serve those who wait from the slice that has come."""
        hold = pot.hold
        while hold is not None and pot.waiting and hold.left_nanos >= pot.waiting[0].nanos:
            one = pot.waiting.popleft()
            if not one.found.done():
                one.found.set_result(_draw(pot, hold, one.nanos))


def _is_unused(pot: _Pot) -> bool:
    """Whether nothing is there and nobody will come back to it."""
    return pot.hold is None and not (pot.waiting or pot.is_asking or pot.trying_again)


def _draw(pot: _Pot, hold: Hold, nanos: int) -> Draw:
    hold.left_nanos -= nanos
    return Draw(hold, pot, nanos)


def _limit_use(use_s: float) -> float:
    """A hold counts for the day on which it was made: it is not used into the next."""
    return min(use_s, _DAY_S - time.time() % _DAY_S)


def _make_refusal(outcome: str, nanos: int) -> MarketplaceError:
    if outcome == "budget_exceeded":
        return BudgetExceededError(
            "A budget of the key leaves less than this prediction costs.",
            required_nano_usd=nanos,
        )
    return InsufficientCreditError(
        "Neither the wallet nor a credit limit leaves enough for this prediction.",
        required_nano_usd=nanos,
    )
