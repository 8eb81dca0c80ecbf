"""Limits of the configuration at the limit and one past it, where no other test stands there.

Those of a protocol, of keys and money stand with their protocol, key or money.
"""

from __future__ import annotations

import asyncio
import collections
from types import SimpleNamespace

import pytest

from inference.gateway import auth, catalog, http, limits_store, triton_pool
from inference.gateway import meter as meter_module
from inference.gateway.cache import Cache
from inference.gateway.config import (
    ACCOUNT_CONCURRENCY_MAX,
    BODY_BYTES_PER_S_MIN,
    BODY_WAIT_S,
    CALLS_PER_BATCH_PLACE,
    COALESCED_CALLS_MAX,
    FAILURES_WAITING_MAX,
    GATHER_MIN,
    HOLD_BATCH_MAX,
    HOLD_STATEMENTS_MAX,
    LIMITS_PER_CALL_MAX,
    OBSERVED_REPLICAS_MAX,
    PLAYGROUND_TTL_S,
    POOL_SIZE_MAX,
    REFERENCE_LENGTH_MAX,
    REQUESTS_OPEN_MAX,
    SETTLE_BATCH_MAX,
    STATEMENT_TIMEOUT_S,
    WAITING_MAX,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.http import Request
from inference.gateway.meter import Meter
from inference.gateway.metrics import Metrics
from inference.gateway.metrics_page import FAMILIES, _add_replicas
from inference.gateway.route import Replica
from marketplace.core.errors import AuthenticationError, NotFoundError
from marketplace.core.exposition import Page
from marketplace.core.ids import new_id
from tests.gateway.conftest import predict, problem_of
from tests.gateway.test_fuzz_triton import Wire
from tests.gateway.test_holds import make_caller, play, turn_until
from tests.gateway.test_meter import FakeConnection, make_prediction, settle


class Body:
    """A body that comes in pieces, and counts those that were taken."""

    def __init__(self, *pieces):
        self.pieces, self.taken = pieces, 0

    async def __aiter__(self):
        for piece in self.pieces:
            self.taken += 1
            yield piece


def request_of(body, *, deadline_s=60.0, limit_bytes=100):
    return Request("POST", "/", [""], "", {}, body, None, limit_bytes, deadline_s)


# --- Requests ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("_damage", "_status"), [("has_one_place", 201), ("is_full", 503)])
def test_open_requests(shop, start_gateway, _damage, _status):
    gateway = start_gateway(target=f"tests.gateway.broken:{_damage}")

    response = predict(shop.client(url=gateway.url))

    assert response.status_code == _status
    assert _status == 201 or problem_of(response) == (503, "capacity")


def test_an_account_alone_cannot_fill_a_gateway():
    assert 2 * ACCOUNT_CONCURRENCY_MAX <= REQUESTS_OPEN_MAX


@pytest.mark.parametrize(("_excess", "_taken"), [(0, 3), (1, 2)])
def test_rest_of_a_refused_body(monkeypatch, _excess, _taken):
    monkeypatch.setattr(http, "LINGER_BYTES_MAX", 10)
    body = Body(b"12345", b"12345" + b"x" * _excess, b"")

    asyncio.run(request_of(body).discard_body())

    assert body.taken == _taken


def test_rest_of_a_refused_body_that_does_not_come(monkeypatch):
    class Silent:
        async def __aiter__(self):
            await asyncio.Event().wait()
            yield b""

    monkeypatch.setattr(http, "LINGER_S", 0.05)

    asyncio.run(asyncio.wait_for(request_of(Silent()).discard_body(), 30))


def test_time_of_a_body():
    request = request_of(None, deadline_s=60)

    assert request._allow_s(0) == BODY_WAIT_S
    assert request._allow_s(BODY_BYTES_PER_S_MIN) == BODY_WAIT_S + 1
    # The request's own deadline ends it as well.
    assert request._allow_s(BODY_BYTES_PER_S_MIN * 1000) == 60


def test_length_of_a_reference(monkeypatch):
    # The longest that its form allows; what is longer is not even looked at.
    longest = f"{'a' * 39}/{'b' * 63}:{'c' * 64}"
    assert len(longest) <= REFERENCE_LENGTH_MAX
    catalog.parse_reference(longest)
    monkeypatch.setattr(catalog, "REFERENCE_LENGTH_MAX", len(longest))
    catalog.parse_reference(longest)
    monkeypatch.setattr(catalog, "REFERENCE_LENGTH_MAX", len(longest) - 1)

    with pytest.raises(NotFoundError):
        catalog.parse_reference(longest)


@pytest.mark.parametrize("_excess_s", [0, 1])
def test_age_of_a_token_of_the_site(monkeypatch, _excess_s):
    now_s = 1_800_000_000.0
    monkeypatch.setattr(auth.time, "time", lambda: now_s)
    authenticator = auth.Authenticator(FakeDatabase(), playground_secret="secret")
    expires_at_s = now_s + PLAYGROUND_TTL_S + _excess_s
    monkeypatch.setattr(authenticator, "_open_token", lambda token: (new_id(), expires_at_s))

    with pytest.raises(AuthenticationError) as caught:
        asyncio.run(authenticator._find_playground("sp_x"))
    # At the limit it goes on to the account, of which there is none here.
    assert ("expired" in caught.value.detail) == bool(_excess_s)


class FakeDatabase:
    async def fetch_one(self, *_):
        return None


# --- Memory ---


def test_entries_of_a_cache():
    cache = Cache(60, entries_max=3)
    cache.enable()
    for number in range(3):
        cache.put(number, number, generation=cache.generation)
    assert len(cache) == 3

    cache.put(3, 3, generation=cache.generation)

    assert len(cache) == 1
    assert cache.get(3) == 3


def make_replica(*, batch_size_max=4, coalesces=True):
    return Replica(
        id=new_id(),
        version_id=new_id(),
        base_url="http://127.0.0.1:1",
        grpc_address="127.0.0.1:2",
        batch_size_max=batch_size_max,
        coalesces=coalesces,
    )


@pytest.mark.parametrize("_excess", [0, 1])
def test_replicas_with_numbers_of_their_own(_excess):
    replicas = [make_replica() for _ in range(OBSERVED_REPLICAS_MAX + _excess)]
    replicas[-1].calls = SimpleNamespace(waiting=1, load=3)
    gateway = SimpleNamespace(routes=SimpleNamespace(list_replicas=lambda: replicas))
    page = Page(FAMILIES)

    _add_replicas(page, gateway, Metrics())

    text = page.to_bytes().decode()
    assert ('replica="other"} 2' in text) == bool(_excess)
    name = "strongroom_gateway_replica_running_requests{"
    assert text.count(name) == OBSERVED_REPLICAS_MAX + _excess


def test_failures_that_wait_to_be_recorded(monkeypatch):
    monkeypatch.setattr(meter_module, "FAILURES_WAITING_MAX", 2)
    monkeypatch.setattr(meter_module, "_make_values", lambda prediction: ())
    meter = meter_module.Meter("postgresql://x", wait_s=1)
    monkeypatch.setattr(meter, "_start", lambda: None)

    for _ in range(3):
        meter.fail(make_prediction(), "model_failed")

    assert len(meter._failures) == 2
    assert FAILURES_WAITING_MAX > SETTLE_BATCH_MAX


# --- Calls of models ---


def test_calls_of_a_replica():
    assert make_replica().calls.calls_max == COALESCED_CALLS_MAX
    alone = make_replica(coalesces=False).calls
    assert alone.calls_max == CALLS_PER_BATCH_PLACE * 4
    # How a line at this limit is refused stands in test_coalesce.py.
    assert alone.waiting_max == WAITING_MAX


class ClosingWire(Wire):
    def __init__(self):
        super().__init__()
        self.closed = asyncio.Event()

    def abort(self):
        super().abort()
        self.closed.set()


def test_abandoned_call_holds_its_slot_for_so_long(monkeypatch):
    monkeypatch.setattr(triton_pool, "ABANDONED_S", 0.1)

    async def run():
        connection = triton_pool.Connection()
        wire = ClosingWire()
        connection.connection_made(wire)
        call = asyncio.ensure_future(connection.exchange(b"", [], lambda: lambda: None))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert not wire.is_closed
        async with asyncio.timeout(30):
            await wire.closed.wait()

    asyncio.run(run())


# --- Postgres and Redis ---


@pytest.mark.parametrize("_excess", [0, 1])
def test_items_of_a_booking(monkeypatch, _excess):
    connection = FakeConnection()
    first = [make_prediction()]
    rest = [make_prediction() for _ in range(SETTLE_BATCH_MAX + _excess - 1)]

    settle(monkeypatch, connection, first + rest)

    sizes = [len(batch) for batch in connection.batches]
    assert sizes == [SETTLE_BATCH_MAX, *[1] * _excess]


@pytest.mark.parametrize(("_come", "_waits"), [(GATHER_MIN - 1, False), (GATHER_MIN, True)])
def test_items_for_which_a_booking_waits_for_more(monkeypatch, _come, _waits):
    monkeypatch.setattr(meter_module, "GATHER_MAX_S", 0.3)
    sizes = []

    async def book(items):
        sizes.append(len(items))
        await asyncio.sleep(0.3)
        for one in items:
            one.booked.set_result("settled")

    async def run():
        meter = Meter("", wait_s=30)
        monkeypatch.setattr(meter, "_settle", book)
        bookings = []
        # The first one waits for nobody; then so many while it is booked; then a late one.
        for count, pause_s in ((1, 0.1), (_come, 0.35), (1, 0)):
            bookings += [
                asyncio.ensure_future(meter.settle(make_prediction())) for _ in range(count)
            ]
            await asyncio.sleep(pause_s)
        await asyncio.gather(*bookings)

    asyncio.run(run())

    assert sizes == ([1, _come + 1] if _waits else [1, _come, 1])


@pytest.mark.parametrize("_excess", [0, 1])
def test_wallets_of_a_reservation(_excess):
    sizes, running = [], []

    async def scene(holds, ledger):
        write = ledger.write

        async def count(query, parameters):
            if "give_back" not in query:
                before = len(ledger.sizes)
                running.append(holds._asking)
                rows = await write(query, parameters)
                sizes.append(len(ledger.sizes) - before)
                return rows
            return await write(query, parameters)

        ledger.write = count
        callers = [make_caller() for _ in range(HOLD_BATCH_MAX + _excess)]
        tasks = [asyncio.create_task(holds.take(caller, 1)) for caller in callers]
        draws = await asyncio.gather(*tasks)
        for draw in draws:
            holds.put_back(draw)
        await turn_until(lambda: not holds._tasks)

    play(10**9, scene)

    assert max(sizes) == HOLD_BATCH_MAX
    assert sum(sizes) == HOLD_BATCH_MAX + _excess
    assert max(running) <= HOLD_STATEMENTS_MAX


@pytest.mark.parametrize("_excess", [0, 1])
def test_requests_of_a_call_to_redis(_excess):
    store = SimpleNamespace(
        _is_beat_due=False, _changed=set(), _refills=[], _waiting=collections.deque()
    )
    store._waiting.extend(
        SimpleNamespace(is_abandoned=False) for _ in range(LIMITS_PER_CALL_MAX + _excess)
    )
    asked = []
    store._add_ask = lambda batch, ask: asked.append(ask)

    limits_store.LimitsStore._compose(store, limits_store._Batch(), 0.0)

    assert (len(asked), len(store._waiting)) == (LIMITS_PER_CALL_MAX, _excess)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_excess", [0, 1])
def test_connections_to_postgres(database_urls, _excess):
    async def run():
        database = Database(database_urls["gateway"])
        await database.open()
        query = "SELECT pg_backend_pid() AS pid, pg_sleep(0.3)"
        count = POOL_SIZE_MAX + _excess
        found = await asyncio.gather(*(database.fetch_one(query) for _ in range(count)))
        (setting,) = (await database.fetch_one("SHOW statement_timeout")).values()
        await database.close()
        return {row["pid"] for row in found}, setting

    pids, setting = asyncio.run(run())

    assert len(pids) <= POOL_SIZE_MAX
    assert setting == f"{STATEMENT_TIMEOUT_S}s"


@pytest.mark.django_db(transaction=True)
def test_statement_that_postgres_does_not_answer(monkeypatch, database_urls):
    monkeypatch.setattr("inference.gateway.database.STATEMENT_LIMIT_S", 0.2)

    async def run():
        database = Database(database_urls["gateway"])
        await database.open()
        with pytest.raises(DatabaseUnavailableError):
            await database.write("SELECT pg_sleep(20)")
        await database.close()

    asyncio.run(run())
