"""Batches, from a file through the gateway's queue to nodes with a real Triton, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from billing.models import Hold, Price, UsageEvent
from inference.models import Batch, BatchLine, File, Job, Prediction, WebhookEvent
from inference.services import batch as services
from inference.services import batch_results
from inference.tasks import advance_batches, forget_batches
from marketplace.core.clock import utc_now
from marketplace.models import APIKey, Notification
from marketplace.selectors.access import Actor
from tests.factories import APIKeyFactory
from tests.gateway.conftest import PRICE_NANOS, REPLICA_IDS, X, check_books
from tests.gateway.processes import eventually
from tests.gateway.pulling import PullingNode
from tests.inference.storing import use_store

GOOD = {"input": {"x": X}}


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path / "objects")


@pytest.fixture
def pull(shop, triton) -> Iterator:
    """Starts nodes that pull."""
    started: list[PullingNode] = []

    def start(node=None, **options) -> PullingNode:
        versions = {shop.version.pk: REPLICA_IDS[0]}
        found = PullingNode(shop.url, node or shop.node, triton, versions, **options)
        started.append(found)
        return found

    yield start
    for one in started:
        one.stop()


def begin(shop, lines: list[Any], key: APIKey | None = None, **said: Any) -> Batch:
    """A batch of lines; a text stands for itself. Its file is read."""
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    batch = services.create_batch_of(
        actor=Actor(api_key=key or shop.key),
        account=shop.consumer,
        version=shop.version,
        file_name="lines.jsonl",
        stream=io.BytesIO(text.encode()),
        **said,
    )
    advance_batches()
    batch.refresh_from_db()
    return batch


def finish(batch: Batch, state: str = "completed") -> Batch:
    """Wait for the end, with the workers' task."""

    def look() -> None:
        advance_batches()
        batch.refresh_from_db()
        assert batch.state == state, (batch.state, batch.reason, batch.detail, count(batch))

    eventually(look, timeout_s=90)
    return batch


def wait_for(batch: Batch, **counts: int) -> None:
    def look() -> None:
        advance_batches()
        assert counts.items() <= count(batch).items(), count(batch)

    eventually(look, timeout_s=60)


def count(batch: Batch) -> dict[str, int]:
    states = BatchLine.objects.filter(batch=batch).values_list("state", flat=True)
    return {one: list(states).count(one) for one in BatchLine.State.values}


def read(batch: Batch, what: str = "output") -> list[dict[str, Any]]:
    text = b"".join(batch_results.read(batch, what))
    return [json.loads(line) for line in text.splitlines()]


def test_each_line_runs_once_and_comes_back_in_its_place(shop, pull):
    shop.fund(30 * PRICE_NANOS)
    lines = [{"custom_id": f"row-{i}", "input": {"x": [i, 0, 0, 0]}} for i in range(20)]
    batch = begin(shop, lines, tag="nightly")
    assert (batch.state, batch.total_count) == ("running", 20)

    pull(slot_count=2)
    finish(batch)

    found = read(batch)
    assert [one["custom_id"] for one in found] == [f"row-{i}" for i in range(20)]
    assert [one["line"] for one in found] == list(range(1, 21))
    assert [one["output"]["y"][0] for one in found] == [2 * i for i in range(20)]
    assert {one["cost_nano_usd"] for one in found} == {PRICE_NANOS}
    assert read(batch, "errors") == []
    check_books(shop, [one["id"] for one in found])
    assert (batch.succeeded_count, batch.failed_count) == (20, 0)
    assert batch.cost_nanos == 20 * PRICE_NANOS
    assert set(UsageEvent.objects.values_list("tag", "api_key_id")) == {("nightly", shop.key.pk)}
    assert set(Job.objects.values_list("priority", flat=True)) == {Job.Priority.BATCH}
    # Results lie in the store, and nowhere else.
    assert batch.output_file.purpose == File.Purpose.BATCH_OUTPUT
    assert not BatchLine.objects.exclude(output=None).exists()
    assert not BatchLine.objects.exclude(input=None).exists()


def test_a_bad_line_fails_alone(shop, pull):
    pull()
    batch = begin(
        shop,
        [
            "not json",
            GOOD,
            {"input": {"x": [1, 2]}},
            {"custom_id": "same", "input": {"x": X}},
            {"custom_id": "same", "input": {"x": X}},
            {"input": {"x": X, "mode": "fail"}},
            {"input": {"x": [1, 2, 3, 1000]}},
        ],
    )
    finish(batch)

    assert [one["line"] for one in read(batch)] == [2, 4]
    wrong = read(batch, "errors")
    assert [(one["line"], one["error"]["code"]) for one in wrong] == [
        (1, "bad_json"),
        (3, "validation"),
        (5, "duplicate_custom_id"),
        (6, "model_failed"),
        (7, "validation"),
    ]
    assert "/x" in wrong[1]["error"]["detail"]
    assert [one["id"] is None for one in wrong] == [True, True, True, False, True]
    assert (batch.succeeded_count, batch.failed_count) == (2, 5)
    check_books(shop, [one["id"] for one in read(batch)])


def test_it_stands_still_without_credit_and_goes_on_with_it(shop, pull):
    """The shop has credit for ten."""
    pull()
    batch = begin(shop, [GOOD] * 14)

    def look() -> None:
        advance_batches()
        batch.refresh_from_db()
        assert (batch.state, batch.reason) == ("paused", "insufficient_credit")

    eventually(look, timeout_s=60)
    wait_for(batch, queued=0)
    assert 1 <= count(batch)["succeeded"] <= 10
    told = Notification.objects.filter(kind="batch")
    assert told.count() <= 1

    shop.fund(10 * PRICE_NANOS)
    services.resume_batch(actor=Actor(api_key=shop.key), batch=batch)
    finish(batch)

    assert batch.succeeded_count == 14
    check_books(shop, [one["id"] for one in read(batch)])


def test_a_paused_batch_goes_on_by_itself(shop, pull):
    shop.fund(-9 * PRICE_NANOS)
    pull()
    batch = begin(shop, [GOOD] * 3)
    eventually(lambda: batch.refresh_from_db() or _is(batch.state == "paused"), timeout_s=60)

    shop.fund(10 * PRICE_NANOS)
    # As if the half minute were over.
    Batch.objects.filter(pk=batch.pk).update(next_at=utc_now())

    finish(batch)
    assert batch.succeeded_count == 3
    assert batch.paused_at is None


def _is(fact: bool) -> None:
    assert fact


def test_a_key_that_is_revoked_stops_it_until_somebody_else_stands_for_it(shop, pull):
    pull()
    other = APIKeyFactory(account=shop.consumer)
    shop.key.revoked_at = utc_now()
    shop.key.save()
    batch = begin(shop, [GOOD] * 2)

    eventually(lambda: batch.refresh_from_db() or _is(batch.state == "paused"), timeout_s=60)
    assert batch.reason == "unauthenticated"
    assert Hold.objects.count() == 0

    services.resume_batch(actor=Actor(api_key=other), batch=batch)
    finish(batch)
    assert set(UsageEvent.objects.values_list("api_key_id", flat=True)) == {other.pk}


def test_what_waits_is_canceled_and_what_ran_is_kept(shop, pull):
    batch = begin(shop, [GOOD] * 6)
    wait_for(batch, queued=6)
    services.cancel_batch(actor=Actor(api_key=shop.key), batch=batch)
    finish(batch, "canceled")

    assert batch.canceled_count == 6
    assert {one["error"]["code"] for one in read(batch, "errors")} == {"canceled"}
    check_books(shop, [])
    with pytest.raises(services.BatchOverError):
        services.cancel_batch(actor=Actor(api_key=shop.key), batch=batch)


def test_what_has_not_run_in_time_fails_and_costs_nothing(shop):
    batch = begin(shop, [GOOD] * 3)
    wait_for(batch, queued=3)
    Job.objects.update(deadline_at=utc_now() - timedelta(seconds=1))
    Batch.objects.update(deadline_at=utc_now() - timedelta(seconds=1))

    finish(batch, "expired")

    assert batch.failed_count == 3
    assert {one["error"]["code"] for one in read(batch, "errors")} == {"deadline_exceeded"}
    check_books(shop, [])


def test_no_more_of_a_batch_is_queued_than_its_window(shop):
    """Nothing pulls. The rest waits outside of the queue, and holds no credit."""
    from inference.gateway.config import BATCH_WINDOW_LINES

    shop.fund(2 * BATCH_WINDOW_LINES * PRICE_NANOS)
    batch = begin(shop, [GOOD] * (BATCH_WINDOW_LINES + 1))
    wait_for(batch, queued=BATCH_WINDOW_LINES)

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM inference_list_batch_lines(%s, 100, %s, 5000)",
            [batch.pk, BATCH_WINDOW_LINES],
        )
        assert cursor.fetchall() == [(None, None, None, True)]
        # One more would be taken.
        cursor.execute(
            "SELECT count(id) FROM inference_list_batch_lines(%s, 100, %s, 5000)",
            [batch.pk, BATCH_WINDOW_LINES + 1],
        )
        assert cursor.fetchone() == (1,)
    assert count(batch)["waiting"] == 1
    assert Hold.objects.filter(state="pending").count() == BATCH_WINDOW_LINES
    services.cancel_batch(actor=Actor(api_key=shop.key), batch=batch)
    finish(batch, "canceled")


def test_its_end_is_told_once(shop, pull):
    from marketplace.models import Membership
    from tests.factories import UserFactory

    person = UserFactory()
    Membership.objects.create(account=shop.consumer, user=person, role="developer")
    pull()
    batch = begin(shop, [GOOD, "x"], webhook="https://93.184.216.34/hook")
    finish(batch)
    advance_batches()

    [event] = WebhookEvent.objects.filter(type="batch.completed")
    assert event.url == "https://93.184.216.34/hook"
    assert event.payload["id"] == str(batch.pk)
    assert event.payload["status"] == "completed"
    assert event.payload["counts"]["succeeded"] == 1
    [line] = Notification.objects.filter(person=person, kind="batch")
    assert "1 of 2 lines succeeded" in line.text


def test_when_its_time_is_over_nothing_of_it_is_left(shop, pull):
    pull()
    batch = begin(shop, [GOOD])
    finish(batch)
    Batch.objects.update(expires_at=utc_now())

    forget_batches()

    assert not Batch.objects.exists()
    assert not BatchLine.objects.exists()
    assert not File.objects.filter(purpose=File.Purpose.BATCH_OUTPUT).exists()
    assert Prediction.objects.count() == 1


def test_its_lines_cost_the_part_that_the_price_says(shop, pull):
    now = utc_now()
    Price.objects.filter(pk=shop.price.pk).update(valid_until=now)
    whole = Price.objects.create(
        model=shop.model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=8_000,
        valid_from=now,
        batch_percent=50,
    )
    half_nanos = 501

    def ask(**said: Any) -> dict[str, Any]:
        given = {"version": "maker/echo", **GOOD, **said}
        answer = shop.client().post("/v1/price", json=given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    # The gateway has heard of the new price.
    eventually(lambda: _is(ask()["price"]["batch_percent"] == 50), timeout_s=30)
    assert ask()["maximum_nano_usd"] == PRICE_NANOS
    assert ask(batch=True)["maximum_nano_usd"] == half_nanos
    assert ask(batch=True)["estimate_nano_usd"] == half_nanos
    refused = shop.client().post("/v1/price", json={"version": "maker/echo", **GOOD, "batch": 1})
    assert refused.status_code == 422

    batch = begin(shop, [GOOD] * 4)
    wait_for(batch, queued=4)
    # No more is reserved than it can cost.
    assert set(Hold.objects.values_list("amount_nanos", flat=True)) == {half_nanos}
    pull()
    finish(batch)

    assert batch.cost_nanos == 4 * half_nanos
    check_books(shop, [one["id"] for one in read(batch)], price_nanos=half_nanos)
    used = {one.price for one in UsageEvent.objects.select_related("price")}
    assert [(one.batch_of, one.nanos_per_prediction) for one in used] == [(whole, half_nanos)]
