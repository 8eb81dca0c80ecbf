"""Budgets of different inputs: at the limit and past it, over gateways, restarts and midnight."""

from __future__ import annotations

import asyncio
import itertools
import timeit
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from django.utils import timezone

from inference.core.query_embedding import DIMENSIONS, read_embeddings
from inference.gateway import query_budget as module
from inference.gateway.config import QUERY_SAMPLES_PER_HOUR_MAX
from inference.gateway.database import Database
from inference.gateway.errors import QueryBudgetExceededError, QueryBudgetSpentError
from inference.gateway.query_budget import QueryBudgets
from inference.gateway.sketch import REGISTERS
from inference.models import AbuseScore, Prediction, QueryBudget, QuerySample, QuerySketch
from inference.triton.tensors import Tensor
from marketplace.models import AIModel
from tests.factories import AccountFactory, AIModelFactory
from tests.gateway.conftest import PRICE_NANOS, X, check_books, predict, problem_of
from tests.gateway.limiting import make_caller, make_offer
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

NOON = 20_000 * 86_400 + 43_200.0
LIMIT = 10


@asynccontextmanager
async def running(url: str, count: int = 1, **options) -> AsyncIterator[list[QueryBudgets]]:
    """Some gateways' counts, flushed when a test says so."""
    databases = [Database(url) for _ in range(count)]
    for one in databases:
        await one.open()
    try:
        yield [QueryBudgets(one, secret="s" * 32, **options) for one in databases]
    finally:
        for one in databases:
            await one.close()


@pytest.fixture
def clock(monkeypatch):
    """A time that a test moves."""
    now = [NOON]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def guarded(**fields):
    """An offer with a budget a day, unless told."""
    return make_offer(**(fields or {"queries_per_day_max": LIMIT}))


def numbers(*rows: float, width: int = 4) -> list[Tensor]:
    data = np.repeat(np.array(rows, np.float32)[:, None], width, axis=1)
    return [Tensor("x", "FP32", data.shape, data)]


def texts(*rows: str) -> list[Tensor]:
    data = np.empty((len(rows), 1), dtype=object)
    data[:, 0] = [one.encode() for one in rows]
    return [Tensor("text", "BYTES", data.shape, data)]


def ask(gateway: QueryBudgets, caller, offer, *rows: float) -> bool:
    """Whether one request with these rows is let in."""
    try:
        gateway.admit(caller, offer, [numbers(*rows)])
    except (QueryBudgetExceededError, QueryBudgetSpentError):
        return False
    return True


def estimates() -> dict[str, int]:
    return {one.period: round(one.estimate) for one in QuerySketch.objects.all()}


def test_the_last_input_of_a_budget_is_answered_and_the_next_is_not(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded()
            for value in range(LIMIT):
                assert ask(gateway, caller, offer, value)
                # The same again is no other input.
                assert ask(gateway, caller, offer, value)
            with pytest.raises(QueryBudgetExceededError) as caught:
                gateway.admit(caller, offer, [numbers(LIMIT)])
            assert caught.value.http_status == 429
            # Noon: twelve hours to midnight.
            assert caught.value.retry_after_s == 43_200
            # It is used up, whatever is asked; others are not touched.
            assert not ask(gateway, caller, offer, 0)
            assert ask(gateway, make_caller(), offer, LIMIT)
            # A creator who raises it is heard at once.
            assert ask(gateway, caller, replace(offer, queries_per_day_max=LIMIT + 1), LIMIT)

    asyncio.run(run())


def test_the_budget_of_all_time_says_that_waiting_does_not_help(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded(queries_total_max=2)
            assert ask(gateway, caller, offer, 1, 2)
            with pytest.raises(QueryBudgetSpentError) as caught:
                gateway.admit(caller, offer, [numbers(3)])
            assert (caught.value.http_status, caught.value.retry_after_s) == (403, None)
            clock[0] += 86_400
            assert not ask(gateway, caller, offer, 4)

    asyncio.run(run())


def test_rows_count_each_and_a_request_that_has_no_room_counts_nothing(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded()
            assert ask(gateway, caller, offer, *range(8), *range(8))
            assert not ask(gateway, caller, offer, 8, 9, 10)
            # There was room for two, and there still is.
            assert ask(gateway, caller, offer, 8, 9)
            assert not ask(gateway, caller, offer, 10)

    asyncio.run(run())


def test_a_new_day_has_a_budget_of_its_own(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded()
            assert ask(gateway, caller, offer, *range(LIMIT))
            assert not ask(gateway, caller, offer, LIMIT)
            clock[0] = (NOON // 86_400 + 1) * 86_400 - 0.001
            assert not ask(gateway, caller, offer, LIMIT)
            clock[0] += 0.001
            assert ask(gateway, caller, offer, LIMIT, LIMIT + 1)
            # What was not written of yesterday still is.
            await gateway.flush()

    asyncio.run(run())
    days = QuerySketch.objects.filter(period="day").order_by("starts_on")
    assert [round(one.estimate) for one in days] == [LIMIT, 2]
    assert estimates()["total"] == LIMIT + 2


def test_who_is_not_counted_costs_nothing(database_urls):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            own = make_caller()
            for caller, offer in (
                (make_caller(), make_offer()),
                (own, replace(guarded(queries_per_day_max=1), owner_id=own.account_id)),
            ):
                assert all(ask(gateway, caller, offer, value) for value in range(3))
            await gateway.flush()

    asyncio.run(run())
    assert not QuerySketch.objects.exists()


def test_gateways_learn_of_each_other_with_a_flush(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"], 2) as [first, second]:
            caller, offer = make_caller(), guarded()
            assert ask(first, caller, offer, *range(6))
            assert ask(second, caller, offer, *range(4, 9))
            await asyncio.gather(first.flush(), second.flush())
            await first.flush()
            # Nine of ten: one more, at either of them.
            assert ask(first, caller, offer, 9)
            await first.flush()
            await second.flush()
            assert not ask(second, caller, offer, 10)
            await second.flush()

    asyncio.run(run())
    assert estimates() == {"day": LIMIT, "total": LIMIT}
    assert set(QuerySketch.objects.values_list("row_count", flat=True)) == {12}


def test_a_consumer_may_have_a_budget_of_its_own(database_urls, clock):
    model, strict, free = AIModelFactory(), AccountFactory(), AccountFactory()
    QueryBudget.objects.create(model=model, account=strict, queries_per_day_max=2)
    QueryBudget.objects.create(model=model, account=free, queries_total_max=LIMIT + 2)

    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            offer = replace(guarded(), model_id=model.pk)
            callers = [replace(make_caller(), account_id=one.pk) for one in (strict, free)]
            for caller in callers:
                assert ask(gateway, caller, offer, 0)
            # Whoever is new to this process has everybody's budget until then.
            await gateway.flush()
            assert ask(gateway, callers[0], offer, 1)
            assert not ask(gateway, callers[0], offer, 2)
            assert ask(gateway, callers[1], offer, *range(1, LIMIT + 2))
            assert not ask(gateway, callers[1], offer, 99)
            # It goes over midnight, and ends when its creator takes it away.
            clock[0] += 86_400
            assert ask(gateway, callers[0], offer, 1, 2)
            assert not ask(gateway, callers[0], offer, 3)
            await gateway.flush()
            await asyncio.to_thread(_take_away, database_urls["owner"])
            await gateway.flush()
            assert ask(gateway, callers[0], offer, *range(3, LIMIT + 1))
            assert not ask(gateway, callers[0], offer, 99)

    asyncio.run(run())


def _take_away(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM inference_querybudget")


def test_what_was_flushed_survives_the_process_and_what_was_not_is_let_in_again(
    database_urls, clock
):
    async def run() -> None:
        caller, offer = make_caller(), guarded()
        async with running(database_urls["gateway"]) as [gateway]:
            assert ask(gateway, caller, offer, *range(8))
            await gateway.flush()
            # Killed before this one is flushed.
            assert ask(gateway, caller, offer, 8, 9)
        async with running(database_urls["gateway"]) as [gateway]:
            assert ask(gateway, caller, offer, 0)
            await gateway.flush()
            assert ask(gateway, caller, offer, 10, 11)
            assert not ask(gateway, caller, offer, 12)
            await gateway.close()

    asyncio.run(run())
    assert estimates() == {"day": LIMIT, "total": LIMIT}


def test_a_flush_that_fails_is_made_up_for(database_urls, clock, monkeypatch):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded()
            for broken in ("_WRITE", "_LOCK", "_WRITE"):
                good = getattr(module, broken)
                monkeypatch.setattr(module, broken, "SELECT 1 / 0")
                assert ask(gateway, caller, offer, 1, 2, 3)
                await gateway.flush()
                rows = await gateway.database.fetch_all(
                    "SELECT 1 FROM inference_querysketch WHERE estimate > 0"
                )
                assert rows == []
                monkeypatch.setattr(module, broken, good)
            await gateway.flush()
            assert not ask(gateway, caller, offer, *range(10, 19))

    asyncio.run(run())
    assert estimates() == {"day": 3, "total": 3}
    assert set(QuerySketch.objects.values_list("row_count", flat=True)) == {9}


def test_registers_that_cannot_be_read_are_written_anew(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded()
            assert ask(gateway, caller, offer, 1, 2)
            await gateway.flush()
            await gateway.database.write(
                "UPDATE inference_querysketch SET registers = 'x', revision = revision + 1"
            )
            assert ask(gateway, caller, offer, 3)
            await gateway.flush()

    asyncio.run(run())
    assert estimates() == {"day": 3, "total": 3}
    assert {len(one.registers) for one in QuerySketch.objects.all()} == {REGISTERS}


def test_who_has_not_come_for_long_is_forgotten_and_found_again(database_urls, clock, monkeypatch):
    monkeypatch.setattr(module, "QUERY_PAIRS_MAX", 3)

    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            callers, offer = [make_caller() for _ in range(4)], guarded()
            for caller in callers[:3]:
                assert ask(gateway, caller, offer, *range(LIMIT))
                clock[0] += 1
            await gateway.flush()
            assert len(gateway._usages) == 3
            # One more than there is room for: who came longest ago makes it.
            assert ask(gateway, callers[3], offer, 1)
            await gateway.flush()
            kept = {account_id for account_id, _ in gateway._usages}
            assert kept == {one.account_id for one in callers[1:]}
            assert ask(gateway, callers[0], offer, 99)
            await gateway.flush()
            assert not ask(gateway, callers[0], offer, 100)
            clock[0] += module.QUERY_IDLE_S
            assert ask(gateway, callers[3], offer, 2)
            await gateway.flush()
            assert len(gateway._usages) == 1

    asyncio.run(run())


def test_the_same_input_is_the_same_in_every_form_and_no_other_is(database_urls):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            whole = numbers(1, 2, 3)[0].data
            batch = [Tensor("x", "FP32", whole.shape, np.asfortranarray(whole))]
            places = {gateway._place(batch, row) for row in range(3)}
            assert places == {gateway._place(numbers(one), 0) for one in (1, 2, 3)}
            different: list[Sequence[Tensor]] = [
                numbers(1),
                numbers(1, width=5),
                [*numbers(1, width=1), *numbers(2, 3, width=2)],
                [*numbers(1, width=2), *numbers(1, width=2)],
                [Tensor("x", "FP32", (1, 2, 2), np.ones((1, 2, 2), np.float32))],
                [Tensor("x", "FP32", (1, 1, 4), np.ones((1, 1, 4), np.float32))],
                texts("ab"),
                texts("abc"),
                [*texts("a"), *texts("b")],
                [*texts(""), *texts("ab")],
            ]
            found = [gateway._place(one, 0) for one in different]
            assert len(set(found)) == len(found)
            # Who does not know the secret cannot tell what is taken for what.
            other = QueryBudgets(gateway.database, secret="t" * 32)
            assert other._place(different[0], 0) != found[0]

    asyncio.run(run())


def test_few_of_many_inputs_are_kept_as_embeddings(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"], sample_share=0.5) as [gateway]:
            caller, offer = make_caller(), guarded(samples_queries=True)
            for value in range(60):
                gateway.admit(caller, offer, [[*numbers(value), *texts(f"text {value}")]])
            await gateway.flush()

    asyncio.run(run())
    samples = list(QuerySample.objects.all())
    assert 10 < len(samples) < 50
    found = read_embeddings([one.embedding for one in samples])
    assert found.shape == (len(samples), DIMENSIONS)
    assert len({tuple(one) for one in found.tolist()}) == len(samples)


def test_one_consumer_has_so_many_samples_an_hour(database_urls, clock):
    async def run() -> None:
        async with running(database_urls["gateway"], sample_share=1.0) as [gateway]:
            caller, offer = make_caller(), guarded(samples_queries=True)
            for value in range(QUERY_SAMPLES_PER_HOUR_MAX + 5):
                gateway.admit(caller, offer, [numbers(value)])
            gateway.admit(make_caller(), offer, [numbers(1)])
            clock[0] += 3_600
            gateway.admit(caller, offer, [numbers(1)])
            # Without samples a budget is kept all the same.
            gateway.admit(make_caller(), guarded(), [numbers(1)])
            await gateway.flush()

    asyncio.run(run())
    assert QuerySample.objects.count() == QUERY_SAMPLES_PER_HOUR_MAX + 2


def test_no_role_of_the_gateway_reads_samples_or_deletes_counts(database_urls):
    with psycopg.connect(database_urls["gateway"], autocommit=True) as connection:
        for statement in (
            "SELECT * FROM inference_querysample",
            "DELETE FROM inference_querysketch",
            "SELECT * FROM inference_abusescore",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_counting_costs_less_than_reading_the_request(database_urls):
    async def run() -> None:
        async with running(database_urls["gateway"]) as [gateway]:
            caller, offer = make_caller(), guarded(queries_per_day_max=10**9)
            values = itertools.count()
            given = [numbers(next(values)) for _ in range(2_000)]
            left = iter(given * 3)
            counted_s = min(
                timeit.repeat(
                    lambda: gateway.admit(caller, offer, [next(left)]), number=2_000, repeat=3
                )
            )
            document = b'{"input": {"x": [1, 2.5, 3, 4], "note": "", "mode": "ok", "wait_s": 0}}'
            checked_s = min(timeit.repeat(lambda: _read(document), number=2_000, repeat=3))
            assert counted_s < checked_s

    asyncio.run(run())


def _read(document: bytes) -> None:
    import orjson

    from strongroom.interface import Interface
    from tests.gateway.conftest import INTERFACE

    Interface.parse(INTERFACE).check_input(orjson.loads(document)["input"])


# --- Over HTTP --------------------------------------------------------------------


def set_budget(shop, **fields) -> None:
    model = AIModel.objects.get(pk=shop.model.pk)
    for name, value in fields.items():
        setattr(model, name, value)
    model.save()


def different(client, value: float):
    return predict(client, x=[value, 2, 3, 4])


def check_budget_holds(shop, urls: list[str]) -> None:
    """Three inputs at each of two gateways are all of the budget, once each has heard of it."""
    shop.fund(20 * PRICE_NANOS)
    set_budget(shop, queries_per_day_max=6)
    clients = [shop.client(url=url) for url in urls]
    answered = [different(clients[value % 2], value).json()["id"] for value in range(6)]
    eventually(lambda: _is_flushed(6), timeout_s=15)
    for client in clients:
        # One that was counted: the flush that writes it brings what the other one has counted.
        answered.append(different(client, 0).json()["id"])
        eventually(lambda: _is_flushed(len(answered)), timeout_s=15)
    later = [different(clients[value % 2], value) for value in range(6, 10)]
    let_in = [one for one in later if one.status_code == 201]
    assert not let_in, f"{len(let_in)} were let in"
    assert {problem_of(one) for one in later} == {(429, "query_budget_exceeded")}
    check_books(shop, answered)


def _is_flushed(count: int) -> None:
    found = QuerySketch.objects.filter(period="day")
    assert sum(one.row_count for one in found) >= count


def test_a_budget_holds_over_two_gateways(shop, gateway, start_gateway):
    check_budget_holds(shop, [gateway.url, start_gateway().url])


def test_gateways_that_count_alone_are_noticed(shop, start_gateway):
    target = "tests.gateway.broken:counts_inputs_alone"
    urls = [start_gateway(target=target).url, start_gateway(target=target).url]

    with pytest.raises(AssertionError, match="4 were let in"):
        check_budget_holds(shop, urls)


def test_who_is_over_budget_pays_nothing_and_is_told_when_to_come(shop, client):
    set_budget(shop, queries_per_day_max=2, queries_total_max=3)
    answered = [different(client, value).json()["id"] for value in (1, 2)]
    # The same again is paid, and not counted.
    answered.append(different(client, 1).json()["id"])
    response = different(client, 3)

    assert problem_of(response) == (429, "query_budget_exceeded")
    assert 0 < int(response.headers["retry-after"]) <= 86_400
    assert response.headers["x-should-retry"] == "false"
    assert Prediction.objects.count() == 3
    # Every protocol leads through the same gate.
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}]}
    assert client.post("/v2/models/maker/echo/infer", json=body).status_code == 429
    set_budget(shop, queries_per_day_max=None)
    answered.append(eventually(lambda: _answer(client, 3)))
    assert eventually(lambda: _refusal(client, 4)) == (403, "query_budget_spent")
    check_books(shop, answered)


def _answer(client, value: float) -> str:
    response = different(client, value)
    assert response.status_code == 201
    return response.json()["id"]


def _refusal(client, value: float) -> tuple[int, str]:
    response = different(client, value)
    assert response.status_code != 201
    return problem_of(response)


def test_a_killed_gateway_forgets_one_flush_at_most(shop, start_gateway):
    set_budget(shop, queries_total_max=3)
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    answered = [different(client, value).json()["id"] for value in (1, 2, 3)]
    eventually(lambda: _is_flushed(3), timeout_s=15)
    gateway.kill()

    client = shop.client(url=start_gateway().url)
    # The first of all tells the gateway who has come; it is one that was counted.
    answered.append(different(client, 1).json()["id"])
    eventually(lambda: _is_flushed(4), timeout_s=15)
    assert problem_of(different(client, 4)) == (403, "query_budget_spent")
    check_books(shop, answered)


def test_a_stream_is_counted_as_well(teller):
    model = AIModel.objects.get(name="teller")
    model.queries_per_day_max = 1
    model.save()
    client = teller.client()

    def tell(prompt: str):
        body = {"input": {"prompt": prompt}, "stream": True}
        path = "/v1/models/maker/teller/predictions"
        return client.post(path, json=body, headers={"accept": "text/event-stream"})

    assert tell("one two").status_code == 200
    assert tell("three four").status_code == 429


def test_the_highest_score_blocks_nobody(shop, client):
    set_budget(shop, samples_queries=True)
    AbuseScore.objects.create(
        model=shop.model, account=shop.consumer, score=100, created_at=timezone.now()
    )

    answered = [different(client, value) for value in range(3)]

    assert {one.status_code for one in answered} == {201}
    check_books(shop, [one.json()["id"] for one in answered])
