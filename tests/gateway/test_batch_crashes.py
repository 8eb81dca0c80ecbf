"""Whoever works on a batch dies at any statement: no line is lost, and none runs twice."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from django.db import connection

from billing.models import Hold
from inference.broker import postgres
from inference.broker.job import Ending, NewJob
from inference.gateway.app import Gateway
from inference.gateway.config import GatewayConfig
from inference.models import (
    Batch,
    BatchLine,
    Job,
    Prediction,
    WebhookEndpoint,
    WebhookEvent,
)
from inference.services import batch as services
from inference.services import batch_results, batch_run
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import Notification
from marketplace.selectors.access import Actor
from tests.factories import MembershipFactory
from tests.gateway.conftest import PRICE_NANOS, Shop, X, check_books
from tests.inference.storing import use_store

T = TypeVar("T")
NODE = new_id()
# The third line is one that the model does not take.
LINES = [{"custom_id": str(i), "input": {"x": X if i != 2 else [1]}} for i in range(4)]
GOOD = ["0", "1", "3"]


class Killed(BaseException):
    """The process is gone; nobody catches that."""


class Fuse:
    """Kills at one statement, before it reaches Postgres or when it is done there."""

    def __init__(self, at: int, *, is_late: bool) -> None:
        self.left = at
        self.is_late = is_late
        self.is_blown = False

    def burn(self, *, is_late: bool) -> None:
        if is_late != self.is_late or self.is_blown:
            return
        self.left -= 1
        if self.left < 0:
            self.is_blown = True
            raise Killed


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def lonely(shop, gateway) -> Iterator[Shop]:
    """The shop, while the gateway of these tests stands still: it would take the batches itself."""
    MembershipFactory(account=shop.consumer)
    WebhookEndpoint.objects.create(account=shop.consumer, url="https://93.184.216.34/hook")
    gateway.pause()
    try:
        yield shop
    finally:
        gateway.go_on()


@pytest.fixture
def run(database_urls, redis_url) -> Iterator[Callable[..., Any]]:
    """Does something with a gateway of its own, which may die at a statement of its batches."""
    config = GatewayConfig(
        database_url=database_urls["gateway"],
        gateway_url="http://gateway.test",
        web_url="http://web.test",
        playground_secret="s" * 32,
        redis_url=redis_url,
    )

    def go(what: Callable[[Gateway], Awaitable[T]], fuse: Fuse | None = None) -> T:
        async def live() -> T:
            gateway = Gateway(config)
            await gateway.database.open()
            await gateway.broker.open()
            if fuse is not None:
                _wire(gateway.database, "_run", fuse)
                _wire(gateway.broker, "_fetch_all", fuse)
            try:
                return await what(gateway)
            finally:
                await gateway.broker.close()
                await gateway.database.close()

        return asyncio.run(live())

    return go


def _wire(target: Any, name: str, fuse: Fuse) -> None:
    original = getattr(target, name)

    async def guarded(*args: Any) -> Any:
        fuse.burn(is_late=False)
        result = await original(*args)
        fuse.burn(is_late=True)
        return result

    setattr(target, name, guarded)


def begin(shop) -> Batch:
    text = "\n".join(json.dumps(one) for one in LINES)
    return services.create_batch_of(
        actor=Actor(api_key=shop.key),
        account=shop.consumer,
        version=shop.version,
        file_name="lines.jsonl",
        stream=io.BytesIO(text.encode()),
    )


async def submit(gateway: Gateway) -> None:
    """Until there is nothing left to take."""
    while await gateway.batches.submit_portion():
        pass


def finish_jobs(run: Callable[..., Any], shop) -> None:
    """What a node does, without a model."""

    async def work(gateway: Gateway) -> None:
        while lease := await gateway.broker.claim(NODE, 0, [shop.version.pk]):
            ending = Ending(state="succeeded", output={"y": lease.input["x"]}, is_charged=True)
            await gateway.broker.finish(NODE, lease.id, lease.epoch, ending)
        await gateway.broker.reap()

    run(work)


def let_time_pass() -> None:
    """The lease of who died is over."""
    Batch.objects.update(next_at=utc_now())


def check_queued_once(batch: Batch) -> None:
    """Each good line has one job, and no job is without its line."""
    lines = dict(BatchLine.objects.filter(batch=batch).values_list("custom_id", "prediction_id"))
    assert {lines[one] for one in GOOD} == set(Job.objects.values_list("pk", flat=True))
    assert lines["2"] is None
    assert Hold.objects.filter(state="pending").count() == len(GOOD)
    states = Counter(BatchLine.objects.filter(batch=batch).values_list("state", flat=True))
    assert states == {"queued": 3, "failed": 1}


def check_done_once(shop, batch: Batch) -> None:
    """Each line has its result, in its place, and was paid for once."""
    batch.refresh_from_db()
    assert batch.state == "completed"
    assert (batch.succeeded_count, batch.failed_count) == (3, 1)
    assert batch.cost_nanos == 3 * PRICE_NANOS
    found = [json.loads(one) for one in b"".join(batch_results.read(batch, "output")).splitlines()]
    assert [one["custom_id"] for one in found] == GOOD
    assert [one["output"] for one in found] == [{"y": X}] * 3
    wrong = [json.loads(one) for one in b"".join(batch_results.read(batch, "errors")).splitlines()]
    assert [one["custom_id"] for one in wrong] == ["2"]
    assert Notification.objects.filter(key=f"batch-over:{batch.pk}").count() == 1
    assert WebhookEvent.objects.filter(type="batch.completed").count() == 1
    check_books(shop, [one["id"] for one in found])


def clear() -> None:
    """Give up what a round has queued, and forget its batch."""
    with connection.cursor() as cursor:
        for job in Job.objects.all():
            cursor.execute("SELECT inference_cancel_job(%s, %s)", [job.account_id, job.pk])
        cursor.execute("DELETE FROM inference_job")
    Prediction.objects.all().delete()
    Batch.objects.all().delete()


def kill_at_each_statement(shop, run, is_late: bool) -> tuple[int, Batch]:
    """One round for each statement that a gateway sends; how many died, and the last batch."""
    died = 0
    while True:
        batch = begin(shop)
        batch_run.advance_batches()
        fuse = Fuse(died, is_late=is_late)
        with suppress(Killed):
            run(submit, fuse)
        let_time_pass()
        run(submit)
        check_queued_once(batch)
        if not fuse.is_blown:
            return died, batch
        died += 1
        clear()


@pytest.mark.parametrize("is_late", [False, True])
def test_a_gateway_dies_at_any_statement(lonely, run, is_late):
    died, batch = kill_at_each_statement(lonely, run, is_late)

    # Take, list, some for each line, note: a test that kills nobody proves nothing.
    assert died >= 10
    finish_jobs(run, lonely)
    batch_run.advance_batches()
    check_done_once(lonely, batch)


def test_who_notes_the_line_apart_from_its_job_is_found_out(lonely, run, monkeypatch):
    """The control: with two transactions in place of one, a kill in between runs a line twice."""
    monkeypatch.setattr(postgres, "_SUBMIT_LINE", "SELECT %s::bigint, " + postgres._SUBMIT[7:])

    def submit_apart(gateway: Gateway) -> Awaitable[None]:
        kept = gateway.broker.submit

        async def submit_line(job: NewJob) -> str:
            outcome = await kept(job)
            await gateway.broker._fetch_all(
                "SELECT 1 FROM batch_control_note(%s, %s)", [job.batch_line_id, job.id]
            )
            return outcome

        gateway.broker.submit = submit_line  # type: ignore[method-assign]
        return submit(gateway)

    with connection.cursor() as cursor:
        cursor.execute(
            """CREATE FUNCTION batch_control_note(bigint, uuid) RETURNS boolean
               LANGUAGE sql SECURITY DEFINER AS $$
                   UPDATE inference_batchline SET state = 'queued', prediction_id = $2
                   WHERE id = $1 RETURNING true $$"""
        )
    try:
        with pytest.raises(AssertionError):
            _kill_apart(lonely, run, submit_apart)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION batch_control_note(bigint, uuid)")


def _kill_apart(shop, run, submit_apart) -> None:
    for at in range(30):
        batch = begin(shop)
        batch_run.advance_batches()
        fuse = Fuse(at, is_late=True)
        with suppress(Killed):
            run(submit_apart, fuse)
        let_time_pass()
        run(submit_apart)
        check_queued_once(batch)
        if not fuse.is_blown:
            return
        clear()


@pytest.mark.parametrize("is_late", [False, True])
def test_a_worker_dies_at_any_statement(lonely, run, is_late, monkeypatch):
    """From the first line that is read to the last one that is told of."""
    monkeypatch.setattr(batch_run, "READ_AT_ONCE", 2)
    monkeypatch.setattr(batch_run, "COLLECT_AT_ONCE", 2)
    batch = begin(lonely)
    read = _die_until_done(is_late)
    batch.refresh_from_db()
    assert (batch.state, batch.total_count) == ("running", 4)
    run(submit)
    check_queued_once(batch)
    finish_jobs(run, lonely)
    ended = _die_until_done(is_late)

    assert read >= 8
    assert ended >= 8
    check_done_once(lonely, batch)


def _die_until_done(is_late: bool) -> int:
    """Workers that die one after the other, each one statement later; how many did."""
    died = 0
    while True:
        fuse = Fuse(died, is_late=is_late)

        def guard(execute, sql, params, many, context, fuse=fuse):
            fuse.burn(is_late=False)
            result = execute(sql, params, many, context)
            fuse.burn(is_late=True)
            return result

        try:
            with connection.execute_wrapper(guard):
                batch_run.advance_batches()
        except Killed:
            died += 1
        else:
            return died
