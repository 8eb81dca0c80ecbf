"""Counting what predictions look like: beside them, within bounds, and without keeping any."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import psycopg
import pytest
from django.db import connection

from inference.core import drift
from inference.gateway import drift as module
from inference.gateway.config import (
    DRIFT_PARTS_MAX,
    DRIFT_PER_S,
    DRIFT_PER_VERSION_S,
    DRIFT_VERSIONS_MAX,
    DRIFT_WAITING_BYTES_MAX,
    DRIFT_WAITING_MAX,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.drift import DriftCounter
from inference.models import DriftPart, DriftWatch
from inference.triton.tensors import Tensor
from marketplace.core.ids import new_id
from marketplace.models import AIModel
from strongroom.interface import Interface
from tests.factories import AIModelFactory, APIKeyFactory
from tests.gateway.conftest import INTERFACE, PRICE_NANOS, check_books, predict
from tests.gateway.limiting import make_caller, make_offer

CANARY = "canary-4711"


def make_prediction(**changes):
    offer = replace(
        make_offer(), interface=Interface.parse(INTERFACE), watches_drift=True, **changes
    )
    return SimpleNamespace(offer=offer, caller=make_caller())


def make_rows(count: int = 1, width: int = 4) -> tuple[list[Tensor], dict[str, np.ndarray]]:
    data = np.ones((count, width), dtype=np.float32)
    note = np.array([[b"hello"]] * count, dtype=np.object_)
    tensors = [Tensor("x", "FP32", data.shape, data), Tensor("note", "BYTES", note.shape, note)]
    return tensors, {"y": data.copy(), "scores": np.eye(3, dtype=np.float32)[[1] * count]}


class Nowhere:
    """A database that is away, or refuses; it remembers what it was asked to write."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.written: list[dict] = []

    async def write(self, _, parameters):
        self.written.append(parameters)
        if self.error is not None:
            raise self.error
        return []


def make_counter(error: Exception | None = None) -> tuple[DriftCounter, Nowhere]:
    database = Nowhere(error)
    return DriftCounter(database, secret="s" * 32), database


def note(counter: DriftCounter, prediction, **rows) -> None:
    tensors, outputs = make_rows(**rows)
    counter.note(prediction, [tensors], [outputs])


def free(counter: DriftCounter) -> DriftCounter:
    counter._is_due = lambda _: True
    return counter


# --- In one process ---------------------------------------------------------------


def test_what_is_noted_is_counted_once() -> None:
    async def run() -> None:
        counter, database = make_counter()
        prediction = make_prediction()
        note(free(counter), prediction, count=4)
        note(counter, prediction)
        await counter.close()

        (written,) = database.written
        assert written["predictions"] == [2]
        assert written["versions"] == [prediction.offer.version_id]
        # Once for a batch of four: a large batch is not many predictions.
        assert '"output:kind:label":{"1":2}' in written["sketches"][0]
        assert written["accounts"][0].bit_count() == 1
        await counter.flush()
        assert len(database.written) == 1

    asyncio.run(run())


@pytest.mark.parametrize("watched", [True, False])
def test_only_others_predictions_of_watched_models_are_noted(watched: bool) -> None:
    async def run() -> None:
        counter, _ = make_counter()
        prediction = make_prediction()
        own = make_prediction(owner_id=prediction.caller.account_id)
        own.caller = prediction.caller
        prediction.offer = replace(prediction.offer, watches_drift=watched)
        note(free(counter), own)
        assert not counter._waiting
        note(counter, prediction)
        assert len(counter._waiting) == int(watched)

    asyncio.run(run())


def test_so_many_a_second_and_no_more(monkeypatch) -> None:
    now_s = [1_000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    counter, _ = make_counter()
    one, versions = new_id(), [new_id() for _ in range(DRIFT_PER_S)]
    found = all_found = 0
    for _ in range(1_000):
        now_s[0] += 0.001
        found += counter._is_due(one)
    assert DRIFT_PER_VERSION_S - 1 <= found <= DRIFT_PER_VERSION_S
    for place in range(10_000):
        now_s[0] += 0.0001
        all_found += counter._is_due(versions[place % len(versions)])
    assert DRIFT_PER_S - 4 <= all_found <= DRIFT_PER_S
    assert len(counter._next_s) <= DRIFT_VERSIONS_MAX + 1


def test_the_queue_has_an_end() -> None:
    async def run() -> None:
        counter, database = make_counter()
        prediction = make_prediction()
        for _ in range(DRIFT_WAITING_MAX):
            note(free(counter), prediction)
        assert (len(counter._waiting), counter._lost) == (DRIFT_WAITING_MAX, 0)
        note(counter, prediction)
        assert (len(counter._waiting), counter._lost) == (DRIFT_WAITING_MAX, 1)
        await counter.close()
        assert database.written[0]["predictions"] == [DRIFT_WAITING_MAX]
        assert counter._waiting_bytes == 0

    asyncio.run(run())


def test_large_rows_hold_little_memory() -> None:
    async def run() -> None:
        counter, _ = make_counter()
        note(free(counter), make_prediction(), width=1_000_000)
        assert counter._waiting_bytes <= 2 * drift.ELEMENTS_MAX * 4 + 1_000
        counter._waiting_bytes = DRIFT_WAITING_BYTES_MAX
        note(counter, make_prediction())
        assert (len(counter._waiting), counter._lost) == (1, 1)

    asyncio.run(run())


def test_versions_have_an_end() -> None:
    async def run() -> None:
        counter, _ = make_counter()
        free(counter)
        for _ in range(DRIFT_VERSIONS_MAX + 1):
            note(counter, make_prediction())
            await counter.count_waiting()
        assert (len(counter._parts), counter._lost) == (DRIFT_VERSIONS_MAX, 1)
        assert len(counter._plans) <= DRIFT_VERSIONS_MAX

    asyncio.run(run())


def test_nothing_that_goes_wrong_reaches_a_prediction(caplog) -> None:
    async def run() -> None:
        counter, database = make_counter()
        prediction = make_prediction()
        free(counter).note(prediction, [], [])
        counter.note(prediction, [[]], [{}])
        counter.note(prediction, None, None)
        assert counter._failed == {"ValueError": 1, "IndexError": 1, "TypeError": 1}
        note(counter, prediction)
        counter._waiting.append(None)
        counter._waiting.rotate(1)
        counter._waiting[0] = replace(counter._waiting[1], clips=None)
        await counter.close()
        # The one behind it is counted.
        assert database.written[0]["predictions"] == [1]

    with caplog.at_level("WARNING"):
        asyncio.run(run())
    assert "could not be counted (IndexError)" in caplog.text


def test_postgres_away_loses_the_oldest_at_last() -> None:
    async def run() -> None:
        counter, database = make_counter(DatabaseUnavailableError())
        free(counter)
        for _ in range(3):
            note(counter, make_prediction())
        await counter.close()
        first = database.written[0]["ids"]
        assert len(counter._left) == 3
        # The same parts again, by the same ids.
        await counter.flush()
        assert database.written[1]["ids"] == first
        counter._left.extend(module.Part(new_id(), new_id(), None) for _ in range(DRIFT_PARTS_MAX))
        await counter.flush()
        assert len(counter._left) == DRIFT_PARTS_MAX
        assert not {one.id for one in counter._left} & set(first)
        database.error = None
        await counter.flush()
        assert not counter._left

    asyncio.run(run())


def test_what_postgres_refuses_is_dropped() -> None:
    async def run() -> None:
        counter, _ = make_counter(psycopg.errors.InsufficientPrivilege())
        note(free(counter), make_prediction())
        await counter.close()
        assert not counter._left

    asyncio.run(run())


@pytest.mark.django_db(transaction=True)
def test_a_part_is_written_once_and_only_while_watched(database_urls) -> None:
    watched, other = AIModelFactory(), AIModelFactory()
    DriftWatch.objects.create(model=watched)

    async def run() -> None:
        database = Database(database_urls["gateway"])
        await database.open()
        counter = free(DriftCounter(database, secret="s" * 32))
        for model in (watched, other):
            note(counter, make_prediction(model_id=model.pk))
        await counter.count_waiting()
        parts = list(counter._parts.values())
        await counter.flush()
        counter._left.extend(parts)
        await counter.flush()
        await database.close()

    asyncio.run(run())
    (part,) = DriftPart.objects.all()
    assert (part.model_id, part.predictions, part.scheme) == (watched.pk, 1, drift.SCHEME)


def test_accounts_are_bits_that_need_the_secret() -> None:
    one, _ = make_counter()
    same, _ = make_counter()
    other = DriftCounter(Nowhere(), secret="t" * 32)
    version = new_id()
    accounts = [UUID(int=place) for place in range(2_000)]
    bits = [one._find_bit(version, account) for account in accounts]

    assert bits == [same._find_bit(version, account) for account in accounts]
    assert bits != [other._find_bit(version, account) for account in accounts]
    assert bits != [one._find_bit(new_id(), account) for account in accounts]
    # Fewer bits than accounts, never more; and all of them fit a bigint of Postgres.
    assert all(bit.bit_count() == 1 and bit < 1 << 63 for bit in bits)
    assert len(set(bits)) == module.ACCOUNT_BITS


# --- A real gateway ---------------------------------------------------------------


def watch(shop) -> None:
    DriftWatch.objects.create(model=shop.model)


def run_and_stop(shop, start_gateway, target: str, **given) -> list[str]:
    gateway = start_gateway(target=f"tests.gateway.broken:{target}")
    client = shop.client(url=gateway.url)
    found = [predict(client, note=CANARY, **given) for _ in range(3)]
    assert {one.status_code for one in found} == {201}, "a prediction failed"
    gateway.stop()
    check_books(shop, [one.json()["id"] for one in found])
    return [gateway.log()]


def find_canary() -> list[str]:
    """Every column of every table that has it."""
    found = []
    with connection.cursor() as sql:
        sql.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        )
        for (table,) in sql.fetchall():
            sql.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE %s', [f"%{CANARY}%"])
            if sql.fetchone()[0]:
                found.append(table)
    return found


def test_a_gateway_counts_and_keeps_no_payload(shop, start_gateway) -> None:
    watch(shop)
    run_and_stop(shop, start_gateway, "looks_at_all")

    (part,) = DriftPart.objects.all()
    assert (part.model_id, part.version_id) == (shop.model.pk, shop.version.pk)
    assert part.predictions == 3
    assert part.accounts.bit_count() == 1
    latin = str(drift.WRITINGS.index("Latin"))
    assert part.sketch["input:note:writing"] == {latin: 3}
    assert part.sketch["output:kind:label"]
    assert sum(part.sketch["input:mode:choice"].values()) == 3
    assert find_canary() == []


def test_a_gateway_that_keeps_texts_is_noticed(shop, start_gateway) -> None:
    watch(shop)
    run_and_stop(shop, start_gateway, "keeps_texts")
    assert find_canary() == ["inference_driftpart"]


def test_without_a_watch_nothing_is_counted(shop, start_gateway) -> None:
    run_and_stop(shop, start_gateway, "looks_at_all")
    assert not DriftPart.objects.exists()


@pytest.mark.parametrize("target", ["fails_to_take", "fails_to_count"])
def test_a_counter_that_fails_fails_no_prediction(shop, start_gateway, target: str) -> None:
    watch(shop)
    (log,) = run_and_stop(shop, start_gateway, target)
    assert not DriftPart.objects.exists()
    assert "3 predictions could not be counted (RuntimeError)" in log
    assert CANARY not in log


def test_counting_that_reaches_predictions_is_noticed(shop, start_gateway) -> None:
    watch(shop)
    with pytest.raises(AssertionError, match="a prediction failed"):
        run_and_stop(shop, start_gateway, "fails_predictions_with_counts")


@pytest.mark.parametrize(("target", "count"), [("looks_at_all", 0), ("counts_the_owner", 1)])
def test_the_owner_is_not_counted(shop, start_gateway, target: str, count: int) -> None:
    watch(shop)
    gateway = start_gateway(target=f"tests.gateway.broken:{target}")
    key = APIKeyFactory(account=shop.creator, mode="test")
    client = shop.client(key.text, url=gateway.url)
    assert predict(client).status_code == 201
    gateway.stop()
    assert DriftPart.objects.count() == count


def test_a_watch_is_heard_at_once(shop, start_gateway) -> None:
    """Not only when what a gateway knows of the model is half a minute old."""
    shop.fund(40 * PRICE_NANOS)
    gateway = start_gateway(target="tests.gateway.broken:looks_at_all")
    client = shop.client(url=gateway.url)
    assert predict(client).status_code == 201
    watch(shop)
    for _ in range(40):
        assert predict(client).status_code == 201
    gateway.stop()
    (part,) = DriftPart.objects.all()
    assert 0 < part.predictions <= 40


def test_a_stream_is_counted(teller, start_gateway) -> None:
    model = AIModel.objects.get(name="teller")
    DriftWatch.objects.create(model=model)
    gateway = start_gateway(target="tests.gateway.broken:looks_at_all")
    client = teller.client(url=gateway.url)
    teller.fund(20 * PRICE_NANOS)

    def tell():
        body = {"input": {"prompt": "one two"}, "stream": True}
        path = "/v1/models/maker/teller/predictions"
        return client.post(path, json=body, headers={"accept": "text/event-stream"}).status_code

    assert tell() == 200
    gateway.stop()
    (part,) = DriftPart.objects.all()
    assert part.predictions == 1
    assert part.sketch["output:text:length"]
    assert part.sketch["input:prompt:writing"]
