"""How a gateway draws on slices when things happen at the same time."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from uuid import UUID

import orjson
import psycopg
import pytest

from inference.gateway import holds as module
from inference.gateway.database import DatabaseUnavailableError
from inference.gateway.errors import BudgetExceededError
from inference.gateway.holds import Holds
from marketplace.core.errors import InsufficientCreditError
from marketplace.core.ids import new_id

TTL_S = 100


class FakeLedger:
    """One wallet, as `billing_reserve` and `billing_give_back` see it."""

    def __init__(self, free_nanos: int) -> None:
        self.free_nanos = free_nanos
        self.open: dict[UUID, int] = {}
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.refusal = "insufficient_credit"
        self.failures: list[BaseException] = []
        self.may_return = False

    async def write(self, query, parameters):
        self.asked.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        return self.give_back(*parameters) if "give_back" in query else self.reserve(*parameters)

    def reserve(self, items, ttl_s):
        assert ttl_s == TTL_S
        return [self.reserve_one(**one) for one in orjson.loads(items)]

    def reserve_one(self, hold_id, least_nanos, most_nanos, **_):
        row = {"hold_id": UUID(hold_id), "amount_nanos": 0, "outcome": self.refusal}
        row["may_return"] = self.may_return
        if least_nanos <= self.free_nanos:
            nanos = max(least_nanos, min(most_nanos, self.free_nanos // 16))
            self.free_nanos -= nanos
            self.open[row["hold_id"]] = nanos
            self.sizes.append(nanos)
            row |= {"amount_nanos": nanos, "outcome": "held", "may_return": False}
        return row

    def give_back(self, ids, amounts):
        for hold_id, nanos in zip(ids, amounts, strict=True):
            given = self.open.get(hold_id, 0) if nanos is None else nanos
            assert given <= self.open.get(hold_id, 0)
            self.free_nanos += given
            if hold_id in self.open:
                self.open[hold_id] -= given
        return []

    @property
    def held_nanos(self) -> int:
        return sum(self.open.values())


def make_caller(has_budget=False):
    return SimpleNamespace(account_id=new_id(), key_id=new_id(), has_budget=has_budget)


async def turn_until(check):
    """Let the others run until something is so."""
    for _ in range(10_000):
        if check():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


def play(free_nanos, scene, *, hears=True):
    """Run a scene; afterwards everything has been given back that was not drawn for good."""

    async def run():
        ledger = FakeLedger(free_nanos)
        holds = Holds(ledger, ttl_s=TTL_S)
        if hears:
            holds.on_listening()
        kept_nanos = await scene(holds, ledger) or 0
        await holds.close()
        assert (ledger.held_nanos, ledger.free_nanos) == (kept_nanos, free_nanos - kept_nanos)

    asyncio.run(run())


def test_who_leaves_while_money_is_asked_for_keeps_none_of_it():
    async def scene(holds, ledger):
        caller = make_caller()
        ledger.gate.clear()
        waiting = [asyncio.create_task(holds.take(caller, 10)) for _ in range(5)]
        await ledger.asked.wait()
        for one in waiting[:3]:
            one.cancel()
        ledger.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in results] == [True] * 3 + [
            False,
            False,
        ]
        return sum(one.nanos for one in results[3:])

    play(10_000, scene)
    play(50, scene)


def test_who_leaves_in_the_moment_that_it_comes_gives_it_back():
    async def scene(holds, ledger):
        caller = make_caller()
        one = asyncio.create_task(holds.take(caller, 10))
        await ledger.asked.wait()
        await turn_until(lambda: ledger.open)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        return 0 if one.cancelled() else one.result().nanos

    play(10_000, scene)
    play(10, scene)


def test_what_comes_while_it_closes_is_given_back():
    async def scene(holds, ledger):
        ledger.gate.clear()
        one = asyncio.create_task(holds.take(make_caller(), 10))
        await ledger.asked.wait()
        one.cancel()
        asyncio.get_running_loop().call_later(0.05, ledger.gate.set)

    play(10_000, scene)


def test_a_gateway_that_hears_nothing_takes_no_slices():
    async def scene(holds, ledger):
        caller = make_caller()
        drawn = [await holds.take(caller, 10) for _ in range(3)]
        assert ledger.sizes == [10, 10, 10]
        holds.on_listening()
        drawn.append(await holds.take(caller, 10))
        assert ledger.sizes[3] > 10
        # And it keeps none when it goes deaf again.
        holds.on_deaf()
        assert holds.draw(caller, 10) is None
        drawn.append(await holds.take(caller, 10))
        assert ledger.sizes[4:] == [10]
        return sum(one.nanos for one in drawn)

    play(10_000, scene, hears=False)


def test_a_notice_brings_the_slice_back_and_not_what_was_drawn():
    async def scene(holds, ledger):
        caller = make_caller()
        drawn = await holds.take(caller, 10)
        holds.on_change("billing_hold", str(new_id()))
        assert holds.draw(caller, 10) is not None
        holds.on_change("billing_hold", str(caller.account_id))
        assert holds.draw(caller, 10) is None
        await turn_until(lambda: holds._giving is None)
        assert ledger.held_nanos == 20
        # Its failure brings the rest back, although the slice is in use no more.
        holds.put_back(drawn)
        return 10

    play(10_000, scene)


def test_a_changed_budget_ends_the_slice_of_its_key_only():
    async def scene(holds, ledger):
        mine, other = make_caller(has_budget=True), make_caller(has_budget=True)
        await holds.take(mine, 10)
        await holds.take(other, 10)
        holds.on_change("marketplace_apikey", str(mine.key_id))
        assert holds.draw(mine, 10) is None
        assert holds.draw(other, 10) is not None
        return 30

    play(10_000, scene)


def test_amounts_of_all_sizes_are_served_while_there_is_money():
    async def scene(holds, ledger):
        caller, chance = make_caller(), random.Random(7)
        amounts = [chance.choice([1, 5, 40, 300]) for _ in range(400)]
        drawn = await asyncio.gather(*(holds.take(caller, one) for one in amounts))
        assert [one.nanos for one in drawn] == amounts
        return sum(amounts)

    play(1_000_000, scene)


def test_dear_ones_do_not_keep_cheap_ones_waiting_for_ever():
    async def scene(holds, ledger):
        caller = make_caller()
        results = await asyncio.gather(
            *(holds.take(caller, one) for one in (900, 10, 900, 10, 10)), return_exceptions=True
        )
        assert [getattr(one, "nanos", None) for one in results] == [None, 10, None, 10, 10]
        assert {type(one) for one in results if isinstance(one, Exception)} == {
            InsufficientCreditError
        }
        return 30

    play(100, scene)


def test_who_is_refused_while_others_hold_enough_asks_again():
    async def scene(holds, ledger):
        ledger.may_return = True
        caller = make_caller()
        ledger.free_nanos -= 40  # Somebody else's.
        asyncio.get_running_loop().call_later(0.06, setattr, ledger, "free_nanos", 50)
        drawn = await holds.take(caller, 50)
        with pytest.raises(InsufficientCreditError):
            await holds.take(caller, 1)
        return drawn.nanos

    play(50, scene)


def test_the_sweeper_forgets_no_account_that_will_ask_again():
    async def scene(holds, ledger):
        ledger.may_return = True
        caller = make_caller()
        ledger.free_nanos = 0
        one = asyncio.create_task(holds.take(caller, 10))
        await ledger.asked.wait()
        await turn_until(lambda: holds._find_pot(caller).trying_again)
        pot = holds._find_pot(caller)
        holds._sweep(1e12)
        assert holds._find_pot(caller) is pot
        ledger.free_nanos = 10_000
        drawn = await one
        holds._drop(pot)
        # Once nobody comes back to it, it goes.
        holds._sweep(1e12)
        assert not holds._pots
        return drawn.nanos

    play(10_000, scene)


def test_idle_slices_go_back_and_used_ones_stay():
    async def scene(holds, ledger):
        idle, busy = make_caller(), make_caller()
        await holds.take(idle, 10)
        await holds.take(busy, 10)
        now_s = holds._find_pot(idle).hold.used_s + 1.5
        holds._find_pot(busy).hold.used_s = now_s
        holds._sweep(now_s)
        assert holds.draw(idle, 10) is None
        assert holds.draw(busy, 10) is not None
        return 30

    play(10_000, scene)


@pytest.mark.parametrize("_error", [DatabaseUnavailableError(), psycopg.DataError("no")])
def test_a_give_back_that_fails_does_not_stop_the_next(_error):
    async def run():
        ledger = FakeLedger(10_000)
        holds = Holds(ledger, ttl_s=TTL_S)
        holds.on_listening()
        first, second = make_caller(), make_caller()
        holds.put_back(await holds.take(first, 10))
        await holds.take(second, 10)
        ledger.failures.append(_error)
        for caller in (first, second):
            holds._drop(holds._find_pot(caller))
            await turn_until(lambda: holds._giving is None)
        lost_nanos, kept_nanos = ledger.open.values()
        # The first expires by itself; of the second, what is drawn is kept.
        assert lost_nanos > 10
        assert kept_nanos == 10

    asyncio.run(run())


@pytest.mark.parametrize("_error", [DatabaseUnavailableError(), psycopg.DataError("no")])
def test_a_reserve_that_fails_is_told_to_all_and_asked_back(_error):
    async def scene(holds, ledger):
        caller = make_caller()
        ledger.failures.append(_error)
        one = asyncio.create_task(holds.take(caller, 10))
        with pytest.raises(Exception, match=r".*"):
            await one
        assert one.exception() is not _error
        drawn = await holds.take(caller, 10)
        return drawn.nanos

    play(10_000, scene)


def test_what_may_be_booked_is_not_drawn_again():
    async def scene(holds, ledger):
        caller = make_caller()
        drawn = await holds.take(caller, 10)
        holds.lose(drawn)
        assert holds.draw(caller, 10) is None
        return 10

    play(10_000, scene)


def test_budget_is_its_own_refusal():
    async def scene(holds, ledger):
        ledger.refusal = "budget_exceeded"
        with pytest.raises(BudgetExceededError) as caught:
            await holds.take(make_caller(has_budget=True), 101)
        assert caught.value.http_status == 402

    play(100, scene)


def test_no_hold_is_used_into_the_next_day(monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 3 * 86_400 - 0.25)
    assert module._limit_use(5.0) == 0.25
    monkeypatch.setattr(module.time, "time", lambda: 3 * 86_400)
    assert module._limit_use(5.0) == 5.0
