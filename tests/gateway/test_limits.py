"""Limits over several gateways on one real Redis, without HTTP around them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time

import pytest

from inference.gateway import limits as limits_module
from inference.gateway import limits_store, shares
from inference.gateway.errors import (
    ConcurrencyLimitedError,
    RateLimitedError,
    UnitsExceedLimitError,
)
from inference.gateway.gcra import SLOT, burst_of
from inference.gateway.limits import Limits
from inference.gateway.limits_store import PREFIX
from inference.gateway.shares import KEPT_CAP_MIN, Gate, Rate
from marketplace.core.errors import LimitExceededError
from tests.gateway.limiting import (
    OwnRedis,
    make_caller,
    make_config,
    make_offer,
    running,
    until,
)
from tests.gateway.windows import check_windows

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def own_redis(tmp_path):
    server = OwnRedis(tmp_path)
    yield server
    server.resume()
    server.kill()


@pytest.fixture
def url(redis_client, redis_url):
    """An empty Redis."""
    return redis_url


@pytest.fixture
def quick_beats(monkeypatch):
    """Gateways that speak often and are soon taken for dead."""
    monkeypatch.setattr(limits_store, "BEAT_S", 0.05)
    monkeypatch.setattr(limits_store, "LIVE_S", 1.5)
    monkeypatch.setattr(limits_store, "IDLE_S", 0.1)


async def try_once(limits: Limits, caller, offer, units: int = 1) -> int:
    """When it was let in, in microseconds; 0 if it was not."""
    try:
        with await limits.admit(caller, offer, units):
            return int(time.monotonic() * 1e6)
    except LimitExceededError:
        return 0


async def hammer(gateways, caller, offer, *, for_s: float, units: int = 1) -> list[int]:
    """Many requests at every gateway; when each of them was let in."""
    times: list[int] = []
    end_s = time.monotonic() + for_s

    async def go_on(limits: Limits) -> None:
        while time.monotonic() < end_s:
            at_us = await try_once(limits, caller, offer, units)
            if at_us:
                times.append(at_us)
            await asyncio.sleep(0 if at_us else 0.001)

    await asyncio.gather(*(go_on(one) for one in gateways for _ in range(8)))
    return sorted(times)


# --- Rates ---


async def check_rate_holds_in_sum(gateways, per_minute: int, *, measure="requests", units=1):
    caller = make_caller(**{f"{measure}_per_minute": per_minute})
    times = await hammer(gateways, caller, make_offer(), for_s=2.0, units=units)
    # A slot that was not leased ahead is used when Redis' answer arrives, not when it was sent.
    slack = 1 if per_minute < shares.LEASED_PER_MINUTE_MIN else 0
    check_windows([(at_us, units) for at_us in times], per_minute, slack=slack)
    return times


@pytest.mark.parametrize("_gateways", [1, 2, 3])
@pytest.mark.parametrize("_per_minute", [300, 600, 6_000, 60_000])
def test_requests_a_minute_hold_over_all_gateways(url, _gateways, _per_minute):
    async def run():
        async with running(url, _gateways) as gateways:
            times = await check_rate_holds_in_sum(gateways, _per_minute)
        # And they are not so strict that nothing is left of the limit: the burst is there.
        assert len(times) >= burst_of(_per_minute) * 3 // 4

    asyncio.run(run())


def test_units_a_minute_hold_over_all_gateways(url):
    async def run():
        async with running(url, 2) as gateways:
            times = await check_rate_holds_in_sum(gateways, 6_000, measure="units", units=7)
        assert len(times) * 7 >= burst_of(6_000) * 3 // 4

    asyncio.run(run())


def keep_alone(gateways) -> None:
    """Break them: each keeps the whole limit for itself."""
    for one in gateways:
        one.store.gateways = 1
        one._admit_shared = functools.partial(admit_alone, one)


async def admit_alone(limits: Limits, plan, units):
    return limits._admit_alone(plan, units)


def test_limits_that_each_gateway_keeps_alone_are_noticed(url, monkeypatch):
    monkeypatch.setattr(limits_store, "BEAT_S", 60.0)

    async def run():
        async with running(url, 2) as gateways:
            keep_alone(gateways)
            with pytest.raises(AssertionError, match="slots at once"):
                await check_rate_holds_in_sum(gateways, 600)

    asyncio.run(run())


@pytest.mark.parametrize("_lease_s", [shares.LEASE_S, 60.0])
def test_slots_that_outlive_their_lease_are_noticed(url, monkeypatch, _lease_s):
    """What is leased counts for the burst: slots that were kept longer come on top of it."""
    monkeypatch.setattr(limits_store, "LEASE_S", _lease_s)
    monkeypatch.setattr(shares, "SLICES_PER_MINUTE", 6)
    per_minute = 6_000

    async def run():
        async with running(url) as [limits]:
            caller, offer = make_caller(requests_per_minute=per_minute), make_offer()
            [(rate, _)] = limits.plan(caller, offer).rates
            rate.is_hot, rate.slice_size = True, 400
            limits.store.refill(rate)
            await until(lambda: rate.slots == 400)
            await asyncio.sleep(4)
            times = await hammer([limits], caller, offer, for_s=0.5)
        return [(at_us, 1) for at_us in times]

    taken = asyncio.run(run())
    if _lease_s == shares.LEASE_S:
        check_windows(taken, per_minute)
    else:
        with pytest.raises(AssertionError, match="slots at once"):
            check_windows(taken, per_minute)


@pytest.mark.parametrize("_per_minute", [1, 5, 10])
def test_few_requests_a_minute_are_exact(url, _per_minute):
    async def run():
        async with running(url, 2) as gateways:
            caller, offer = make_caller(requests_per_minute=_per_minute), make_offer()
            begun_s = time.monotonic()
            tries = [try_once(one, caller, offer) for one in gateways for _ in range(20)]
            admitted = sum(map(bool, await asyncio.gather(*tries)))
            grown = int((time.monotonic() - begun_s) * _per_minute / 60)
            assert _per_minute <= admitted <= _per_minute + grown

    asyncio.run(run())


def test_who_waits_as_long_as_told_gets_in(url):
    async def run():
        async with running(url, 2) as [one, other]:
            caller, offer = make_caller(requests_per_minute=60), make_offer()
            for _ in range(10):
                assert await try_once(one, caller, offer)
            with pytest.raises(RateLimitedError) as refused:
                await other.admit(caller, offer, 1)
            assert refused.value.retry_after_s == 1
            assert refused.value.params["violated-policies"] == ["key-rpm"]
            await asyncio.sleep(refused.value.retry_after_s)
            assert await try_once(other, caller, offer)

    asyncio.run(run())


def test_what_is_refused_takes_nothing_of_the_other_limits(url):
    async def run():
        async with running(url, 2) as gateways:
            caller = make_caller(requests_per_minute=9, account_requests_per_minute=6_000)
            narrow, wide = make_offer(requests_per_minute=1), make_offer()
            assert await try_once(gateways[0], caller, narrow)
            for one in gateways * 10:
                assert not await try_once(one, caller, narrow)
            admitted = [await try_once(one, caller, wide) for one in gateways * 5]
            assert sum(map(bool, admitted)) == 8

    asyncio.run(run())


def test_units_of_a_request_end_at_the_minutes(url):
    async def run():
        async with running(url) as [limits]:
            caller, offer = make_caller(units_per_minute=600), make_offer()
            with pytest.raises(UnitsExceedLimitError) as refused:
                await limits.admit(caller, offer, 601)
            assert refused.value.retry_after_s is None
            # Ten times the burst: it goes when nothing is owed, and is paid for afterwards.
            assert await try_once(limits, caller, offer, 600)
            with pytest.raises(RateLimitedError) as late:
                await limits.admit(caller, offer, 1)
            assert 50 <= late.value.retry_after_s <= 60

    asyncio.run(run())


def test_changed_limit_counts_at_once_and_for_what_was_taken(url):
    async def run():
        async with running(url) as [limits]:
            key = make_caller(requests_per_minute=5)
            offer = make_offer()
            assert [bool(await try_once(limits, key, offer)) for _ in range(6)] == [True] * 5 + [
                False
            ]
            raised = make_caller(key.key_id, requests_per_minute=8)
            assert [bool(await try_once(limits, raised, offer)) for _ in range(4)] == [True] * 3 + [
                False
            ]
            lowered = make_caller(key.key_id, requests_per_minute=2)
            assert not await try_once(limits, lowered, offer)

    asyncio.run(run())


def test_slices_grow_with_use_and_shrink_without():
    rate = Rate("key-rpm", "k", 60_000)
    now_s = 100.0
    assert not rate.take(1, now_s)
    assert rate.grow_slice(1) == 0  # Nobody knows yet whether more will come.
    for expected in (1, 2, 4, 8, 16, 32, 64, 100, 100):
        assert not rate.take(1, now_s)
        assert rate.grow_slice(1) == expected
    assert rate.grow_slice(50) == 2
    rate.slice_size = 8
    rate.add(4, now_s + 1)
    assert rate.take(1, now_s + 0.5)
    assert rate.slots == 3
    assert not rate.take(1, now_s + 1)
    assert (rate.slots, rate.slice_size) == (0, 4)


def test_slots_are_taken_from_the_oldest_and_put_back_with_their_end():
    rate = Rate("key-rpm", "k", 60_000)
    rate.add(3, 10.0)
    rate.add(3, 20.0)

    until_s = rate.take(4, 5.0)
    assert (until_s, rate.slots) == (10.0, 2)
    rate.put_back(4, until_s)
    assert rate.take(6, 5.0) == 10.0
    rate.put_back(6, 10.0)
    assert rate.take(1, 10.0) == 0.0
    assert rate.slots == 0


# --- The hot path ---


def test_unlimited_request_asks_nobody(url, redis_client):
    async def run():
        async with running(url) as [limits]:
            for _ in range(100):
                # A coroutine that ends at its first step has waited for nothing.
                with pytest.raises(StopIteration):
                    limits.admit(make_caller(), make_offer(), 5).send(None)
            assert limits.plan(make_caller(), make_offer()).render(is_openai=True) == []
        assert redis_client.keys("*") == [f"{PREFIX}gateways".encode()]

    asyncio.run(run())


def test_generous_limits_are_leased_ahead(url):
    async def run():
        settings = {
            "account_requests_per_minute": 600_000,
            "account_units_per_minute": 6_000_000,
            "account_concurrency_max": 2_048,
        }
        async with running(url, 2, **settings) as [limits, _]:
            caller, offer = make_caller(), make_offer()
            asked, ask = 0, limits.store.ask

            def count(what):
                nonlocal asked
                asked += 1
                return ask(what)

            limits.store.ask = count
            for _ in range(200):
                for _ in range(10):
                    assert await try_once(limits, caller, offer, 4)
                # The next requests come while the refill is on its way.
                await asyncio.sleep(0.0005)
            assert asked < 100

    asyncio.run(run())


# --- Caps ---


def test_cap_holds_over_all_gateways(url):
    async def run():
        async with running(url, 2) as gateways:
            caller, offer = make_caller(concurrency_max=3), make_offer()
            with contextlib.ExitStack() as inside:
                for one in (gateways[0], gateways[1], gateways[0]):
                    inside.enter_context(await one.admit(caller, offer, 1))
                for one in gateways:
                    with pytest.raises(ConcurrencyLimitedError) as refused:
                        await one.admit(caller, offer, 1)
                    assert refused.value.retry_after_s == 1
                    assert refused.value.params["violated-policies"] == ["key-conc"]
            for one in reversed(gateways):
                await until_admitted(one, caller, offer)

    asyncio.run(run())


@pytest.mark.parametrize("_cap", [KEPT_CAP_MIN, 200])
def test_as_many_as_the_cap_come_in_at_once(url, _cap):
    """Places that are leased ahead are not taken from those who wait."""

    async def run():
        async with running(url, 1) as [limits]:
            caller, offer = make_caller(concurrency_max=_cap), make_offer()
            asked = [limits.admit(caller, offer, 1) for _ in range(_cap)]
            with contextlib.ExitStack() as inside:
                for plan in await asyncio.gather(*asked):
                    inside.enter_context(plan)
                with pytest.raises(ConcurrencyLimitedError):
                    await limits.admit(caller, offer, 1)

    asyncio.run(run())


async def until_admitted(limits: Limits, caller, offer) -> None:
    deadline = time.monotonic() + 30
    while not await try_once(limits, caller, offer):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("_cap", [1, 3, KEPT_CAP_MIN - 1, KEPT_CAP_MIN, 100])
def test_never_more_run_than_the_cap(url, quick_beats, _cap):
    async def run():
        async with running(url, 3) as gateways:
            caller, offer = make_caller(account_concurrency_max=_cap), make_offer()
            await check_cap(gateways, caller, offer, cap=_cap)

    asyncio.run(run())


async def check_cap(gateways, caller, offer, *, cap: int) -> None:
    inside, most, admitted = 0, 0, 0
    end_s = time.monotonic() + 1.0

    async def go_on(limits: Limits) -> None:
        nonlocal inside, most, admitted
        while time.monotonic() < end_s:
            try:
                entered = await limits.admit(caller, offer, 1)
            except ConcurrencyLimitedError:
                await asyncio.sleep(0.001)
                continue
            with entered:
                inside += 1
                admitted += 1
                most = max(most, inside)
                await asyncio.sleep(0.005)
                inside -= 1
            await asyncio.sleep(0.001)

    await asyncio.gather(*(go_on(one) for one in gateways for _ in range(cap)))
    assert most <= cap, "more than the cap at once"
    assert most > cap // 2
    assert admitted > cap


def test_cap_that_each_gateway_keeps_alone_is_noticed(url, monkeypatch):
    monkeypatch.setattr(limits_store, "BEAT_S", 60.0)

    async def run():
        async with running(url, 2) as gateways:
            keep_alone(gateways)
            caller, offer = make_caller(concurrency_max=4), make_offer()
            with pytest.raises(AssertionError, match="more than the cap"):
                await check_cap(gateways, caller, offer, cap=4)

    asyncio.run(run())


def test_idle_places_of_a_large_cap_go_back(url, quick_beats):
    async def run():
        async with running(url, 2) as [one, other]:
            caller, offer = make_caller(concurrency_max=160), make_offer()
            with contextlib.ExitStack() as inside:
                for _ in range(80):
                    inside.enter_context(await one.admit(caller, offer, 1))
            # Some stayed with the first; in the end the other gets each of them.
            with contextlib.ExitStack() as inside:
                for _ in range(160):
                    deadline = time.monotonic() + 30
                    while True:
                        with contextlib.suppress(ConcurrencyLimitedError):
                            inside.enter_context(await other.admit(caller, offer, 1))
                            break
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.02)
                with pytest.raises(ConcurrencyLimitedError):
                    await other.admit(caller, offer, 1)

    asyncio.run(run())


def test_places_of_a_dead_gateway_come_back(url, quick_beats):
    async def run():
        async with running(url, 2) as [dead, other]:
            caller, offer = make_caller(concurrency_max=2), make_offer()
            await dead.admit(caller, offer, 1)
            await dead.admit(caller, offer, 1)
            await asyncio.sleep(2 * limits_store.LIVE_S)
            # As long as it lives they are its own, however long that is.
            assert not await try_once(other, caller, offer)
            for task in dead.store._tasks:
                task.cancel()
            await until_admitted(other, caller, offer)

    asyncio.run(run())


def test_flush_is_made_good_by_the_next_beat(url, redis_client, quick_beats):
    async def run():
        async with running(url, 2) as [one, other]:
            caller, offer = make_caller(concurrency_max=2), make_offer()
            with await one.admit(caller, offer, 1), await one.admit(caller, offer, 1):
                key = f"{PREFIX}key-conc:{caller.key_id}"
                redis_client.flushall()
                await until(lambda: redis_client.hvals(key) == [b"2"])
                assert not await try_once(other, caller, offer)
            await until_admitted(other, caller, offer)
            await until(lambda: not redis_client.exists(key))

    asyncio.run(run())


def test_flushed_scripts_are_sent_again(url, redis_client):
    async def run():
        async with running(url) as [limits]:
            caller, offer = make_caller(requests_per_minute=5), make_offer()
            for _ in range(5):
                redis_client.script_flush()
                assert await try_once(limits, caller, offer)
            assert limits.scope == "shared"
            assert not await try_once(limits, caller, offer)

    asyncio.run(run())


@pytest.mark.parametrize("_when", ["before the call", "with the answer"])
def test_place_of_a_request_that_was_given_up_comes_back(url, redis_client, _when):
    async def run():
        async with running(url) as [limits]:
            caller, offer = make_caller(concurrency_max=1), make_offer()
            apply = limits.store._apply

            def apply_and_cancel(*what):
                apply(*what)
                if _when == "with the answer":
                    waiting.cancel()

            waiting = asyncio.create_task(limits.admit(caller, offer, 1))
            limits.store._apply = apply_and_cancel
            await asyncio.sleep(0)
            if _when == "before the call":
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            limits.store._apply = apply
            await until_admitted(limits, caller, offer)
            await until(lambda: not redis_client.exists(f"{PREFIX}key-conc:{caller.key_id}"))

    asyncio.run(run())


# --- Without Redis ---


@pytest.mark.parametrize("_how", ["killed", "stopped"])
def test_each_gateway_keeps_its_share_while_redis_is_gone(own_redis, quick_beats, _how):
    async def run():
        async with running(own_redis.url, 2, redis_wait_ms=300) as gateways:
            caller = make_caller(requests_per_minute=10, concurrency_max=4)
            offer = make_offer()
            assert [one.scope for one in gateways] == ["shared", "shared"]
            (own_redis.kill if _how == "killed" else own_redis.pause)()
            admitted = await asyncio.gather(
                *(try_once(one, caller, offer) for one in gateways for _ in range(20))
            )
            # Five of each: half of the burst. Nobody's request failed for Redis.
            assert sum(map(bool, admitted)) == 10
            assert [one.scope for one in gateways] == ["local", "local"]
            headers = dict(gateways[0].plan(caller, offer).render(is_openai=False))
            assert headers["x-ratelimit-scope"] == "local"
            assert headers["ratelimit"] == '"key-rpm";r=0;t=60'

            capped = make_caller(concurrency_max=4)
            for one in gateways:
                with await one.admit(capped, offer, 1), await one.admit(capped, offer, 1):
                    assert not await try_once(one, capped, offer)
                assert await try_once(one, capped, offer)

            (own_redis.start if _how == "killed" else own_redis.resume)()
            await until(lambda: all(one.scope == "shared" for one in gateways))
            fresh = make_caller(requests_per_minute=10)
            admitted = await asyncio.gather(
                *(try_once(one, fresh, offer) for one in gateways for _ in range(20))
            )
            assert sum(map(bool, admitted)) == 10

    asyncio.run(run())


def test_redis_that_comes_and_goes_gives_no_further_burst(own_redis, quick_beats):
    async def run():
        async with running(own_redis.url, redis_wait_ms=300) as [limits]:
            caller, offer = make_caller(requests_per_minute=5), make_offer()
            admitted = 0
            for _ in range(4):
                own_redis.pause()
                for _ in range(10):
                    admitted += bool(await try_once(limits, caller, offer))
                own_redis.resume()
                await until(lambda: limits.scope == "shared")
                for _ in range(10):
                    admitted += bool(await try_once(limits, caller, offer))
            # One of Redis, one of its own, and a little that grows back. What Redis granted
            # after it was given up is lost.
            assert 6 <= admitted <= 12

    asyncio.run(run())


def test_first_start_without_redis_counts_the_gateways_it_was_told_of(own_redis):
    own_redis.kill()

    async def run():
        limits = Limits(make_config(own_redis.url, gateway_count=5))
        await limits.start()
        caller, offer = make_caller(requests_per_minute=10), make_offer()
        admitted = [await try_once(limits, caller, offer) for _ in range(10)]
        await limits.stop()
        assert sum(map(bool, admitted)) == 2

    asyncio.run(run())


def test_places_of_the_time_without_redis_are_told_when_it_is_back(own_redis, quick_beats):
    async def run():
        async with running(own_redis.url, 2, redis_wait_ms=300) as [one, other]:
            caller, offer = make_caller(concurrency_max=2), make_offer()
            own_redis.kill()
            await until(lambda: one.scope == other.scope == "local")
            with await one.admit(caller, offer, 1), await other.admit(caller, offer, 1):
                own_redis.start()
                with own_redis.client() as client:
                    key = f"{PREFIX}key-conc:{caller.key_id}"
                    await until(lambda: client.hvals(key) == [b"1", b"1"])
                    assert not await try_once(one, caller, offer)
                    assert not await try_once(other, caller, offer)

    asyncio.run(run())


def test_redis_knows_ids_only_and_forgets_them(url, redis_client):
    async def run():
        # Of so few a minute each is remembered for half of one, however slow this machine is.
        async with running(url, 1, account_requests_per_minute=2) as [limits]:
            caller = make_caller(requests_per_minute=2, units_per_minute=6, concurrency_max=9)
            offer = make_offer(requests_per_minute=2, concurrency_max=9)
            with await limits.admit(caller, offer, 3):
                keys = {key.decode() for key in redis_client.keys("*")}
                assert keys == {
                    f"{PREFIX}gateways",
                    f"{PREFIX}key-rpm:{caller.key_id}",
                    f"{PREFIX}key-upm:{caller.key_id}",
                    f"{PREFIX}key-conc:{caller.key_id}",
                    f"{PREFIX}account-rpm:{caller.account_id}",
                    f"{PREFIX}model-rpm:{offer.model_id}",
                    f"{PREFIX}model-conc:{offer.model_id}",
                }
                # A minute's worth is the largest debt; none stays for ever (-1).
                assert all(0 < redis_client.pttl(key) <= 60_000 for key in keys)

    asyncio.run(run())


# --- Headers, reads, memory ---


def test_headers_name_every_limit_and_where_the_tightest_stands(url):
    async def run():
        async with running(url, 1, account_requests_per_minute=6_000) as [limits]:
            caller = make_caller(
                requests_per_minute=60, units_per_minute=100, account_concurrency_max=4
            )
            offer = make_offer(concurrency_max=100)
            plan = await limits.admit(caller, offer, 3)
            with plan:
                headers = dict(plan.render(is_openai=True))
            assert headers["ratelimit-policy"] == (
                '"key-rpm";q=60;w=60, "account-rpm";q=6000;w=60, "key-upm";q=100;w=60;qu="units", '
                '"account-conc";q=4;qu="concurrent-requests", '
                '"model-conc";q=100;qu="concurrent-requests"'
            )
            # Seven tenths of the units' burst are left, and nine of the requests'.
            assert headers["ratelimit"] == '"key-upm";r=7;t=2'
            assert headers["x-ratelimit-limit-requests"] == "60"
            assert headers["x-ratelimit-remaining-requests"] == "9"
            assert headers["x-ratelimit-reset-requests"].endswith(("ms", "1s"))
            assert "x-ratelimit-scope" not in headers
            assert "x-ratelimit-limit-requests" not in dict(plan.render(is_openai=False))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("_us", "_text"),
    [(0, "0ms"), (1, "1ms"), (999_000, "999ms"), (1_500_000, "1.5s"), (360_000_000, "6m0s")],
)
def test_durations_are_written_as_openai_writes_them(_us, _text):
    assert limits_module._render_duration(_us) == _text


def test_reads_are_counted_per_key(url):
    async def run():
        async with running(url, 1, reads_per_minute=60) as [limits]:
            caller = make_caller()
            for _ in range(10):
                limits.admit_read(caller)
            with pytest.raises(RateLimitedError) as refused:
                limits.admit_read(caller)
            assert refused.value.retry_after_s == 1
            limits.admit_read(make_caller())

    asyncio.run(run())


def test_callers_who_are_gone_are_forgotten(url, monkeypatch):
    monkeypatch.setattr(limits_module, "PLANS_KEPT_MAX", 10)
    monkeypatch.setattr(limits_module, "READERS_KEPT_MAX", 10)
    monkeypatch.setattr(limits_module, "_KEPT_S", 0.0)

    async def run():
        async with running(url) as [limits]:
            offer = make_offer()
            held = make_caller(concurrency_max=1)
            with await limits.admit(held, offer, 1):
                for _ in range(100):
                    caller = make_caller(requests_per_minute=5, concurrency_max=5)
                    assert await try_once(limits, caller, offer)
                    limits.admit_read(caller)
                assert len(limits._plans) <= 10
                assert len(limits._rates) <= 10
                assert len(limits.store.gates) <= 11
                assert len(limits._reads) <= 10
                # Who still holds a place is not forgotten with it.
                assert not await try_once(limits, held, offer)
            await until_admitted(limits, held, offer)

    asyncio.run(run())


def test_gate_keeps_places_of_a_large_cap_only():
    for cap, kept in ((KEPT_CAP_MIN - 1, 0), (KEPT_CAP_MIN, KEPT_CAP_MIN // 16)):
        gate = Gate("key-conc", "k", cap)
        gate.used = 1
        gate.release()
        assert gate.kept == kept
        assert gate.idle == 1


def test_largest_limit_stays_exact(url, redis_client):
    """A debt is below 2**53: Redis counts with floating point numbers."""

    async def run():
        async with running(url) as [limits]:
            caller, offer = make_caller(units_per_minute=100_000_000), make_offer()
            assert await try_once(limits, caller, offer, 100_000_000)
            debt, _ = redis_client.get(f"{PREFIX}key-upm:{caller.key_id}").split()
            assert int(debt) == 100_000_000 * SLOT < 2**53
            assert not await try_once(limits, caller, offer, 1)

    asyncio.run(run())
