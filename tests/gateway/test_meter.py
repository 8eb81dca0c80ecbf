"""How bookings reach Postgres when it is slow, gone, or refuses one of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import orjson
import psycopg
import pytest

from inference.gateway import meter as module
from inference.gateway.config import STORED_OUTPUT_BYTES_MAX
from inference.gateway.database import DatabaseUnavailableError
from inference.gateway.errors import BookingUnknownError
from inference.gateway.meter import Meter
from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import new_id


class FakeConnection:
    """Books everything; a function may look at a batch first and raise."""

    closed = False

    def __init__(self, look=lambda batch: None) -> None:
        self.look = look
        self.batches: list[list[dict]] = []

    async def execute(self, query, parameters, *, prepare):
        batch = _read_batch(parameters)
        self.batches.append(batch)
        self.look(batch)
        rows = [{"prediction_id": one["prediction_id"], "outcome": "settled"} for one in batch]
        if "extras" not in parameters:
            # Those that were simply booked are counted, not named.
            rows = [{"prediction_id": None, "outcome": str(len(batch))}]
        return SimpleNamespace(fetchall=lambda: _done(rows))

    async def close(self):
        self.closed = True


def _read_batch(parameters):
    """The predictions of a statement, each with its group and its extra."""
    groups = {one["no"]: one for one in orjson.loads(parameters["groups"])}
    extras = {one["prediction_id"]: one for one in orjson.loads(parameters.get("extras", "[]"))}
    ids = [str(module.UUID(one)) for one in parameters["ids"].strip("{}").split(",")]
    nos = parameters["nos"].strip("{}").split(",")
    return [
        groups[int(no)] | {"prediction_id": one} | extras.get(one, {})
        for one, no in zip(ids, nos, strict=True)
    ]


async def _done(rows):
    for row in rows:
        if row["prediction_id"] is not None:
            row["prediction_id"] = module.UUID(row["prediction_id"])
    return rows


def make_prediction(claim=None, output=None):
    caller = SimpleNamespace(account_id=new_id(), key_id=new_id(), source="api")
    offer = SimpleNamespace(version_id=new_id(), owner_id=new_id())
    return SimpleNamespace(
        id=new_id(), caller=caller, offer=offer, claim=claim, output=output,
        price=SimpleNamespace(id=new_id()),
        mode="live", rows=1, gross_nanos=5, completed_at=None, created_at=utc_now(),
        protocol="native", predict_time_s=0.1, draw=None, is_rated=False, metered=None, tag="",
    )  # fmt: skip


def settle(monkeypatch, connection, predictions, *, wait_s=5.0, connects_after_s=0.0):
    """What each of some predictions that are settled together comes to."""

    async def connect(url, *, durable):
        assert durable
        await asyncio.sleep(connects_after_s)
        return connection

    monkeypatch.setattr(module, "connect", connect)

    async def run():
        meter = Meter("postgresql://x", wait_s=wait_s)
        results = await asyncio.gather(
            *(meter.settle(one) for one in predictions), return_exceptions=True
        )
        await meter.drain(5)
        return results

    return asyncio.run(run())


def tag_predictions():
    """Three of one caller, model and hold, in one batch: two of one tag, one of another."""
    first = make_prediction()
    others = [make_prediction() for _ in range(2)]
    for one, tag in zip((first, *others), ("nightly", "nightly", "team-7"), strict=True):
        one.caller, one.offer, one.price, one.tag = first.caller, first.offer, first.price, tag
    return [first, *others]


def tags_booked(monkeypatch, predictions):
    """The tag that each is sent with, and how many groups are."""
    connection = FakeConnection()
    results = settle(monkeypatch, connection, predictions, connects_after_s=0.05)
    assert results == [None] * len(predictions)
    batch = max(connection.batches, key=len)
    sent = {one["prediction_id"]: one["tag"] for one in batch}
    return [sent.get(str(one.id)) for one in predictions], len({one["no"] for one in batch})


def test_a_batch_has_a_group_for_each_tag_and_not_for_each_prediction(monkeypatch):
    assert tags_booked(monkeypatch, tag_predictions()) == (["nightly", "nightly", "team-7"], 2)


def test_a_group_that_overlooks_the_tag_is_noticed(monkeypatch):
    monkeypatch.setattr(module, "_identify_group", lambda prediction: (id(prediction.caller),))

    assert tags_booked(monkeypatch, tag_predictions()) == (["nightly"] * 3, 1)


def test_who_was_told_that_nothing_is_booked_is_not_booked_later(monkeypatch):
    connection = FakeConnection()

    (result,) = settle(
        monkeypatch, connection, [make_prediction()], wait_s=0.05, connects_after_s=0.2
    )

    assert isinstance(result, DatabaseUnavailableError)
    assert connection.batches == []


def test_who_was_sent_and_not_answered_is_told_so(monkeypatch):
    def hang(batch):
        raise OSError("cut")

    (result,) = settle(monkeypatch, FakeConnection(hang), [make_prediction()], wait_s=0.3)

    assert isinstance(result, BookingUnknownError)


@pytest.mark.parametrize(
    "_error", [psycopg.errors.QueryCanceled, psycopg.errors.ProgramLimitExceeded]
)
def test_one_that_postgres_cannot_book_does_not_keep_the_others(monkeypatch, _error):
    predictions = [make_prediction() for _ in range(4)]
    bad = str(predictions[2].id)

    def look(batch):
        if any(one["prediction_id"] == bad for one in batch):
            raise _error("too much")

    results = settle(monkeypatch, FakeConnection(look), predictions)

    assert [results[0], results[1], results[3]] == [None, None, None]
    assert isinstance(results[2], MarketplaceError)
    assert results[2].http_status == 500


@pytest.mark.parametrize(
    "_error",
    [
        psycopg.OperationalError,
        psycopg.errors.AdminShutdown,
        psycopg.errors.DeadlockDetected,
        TimeoutError,
    ],
)
def test_what_passes_is_tried_again(monkeypatch, _error):
    failures = [_error("now")]

    def look(batch):
        if failures:
            raise failures.pop()

    connection = FakeConnection(look)

    assert settle(monkeypatch, connection, [make_prediction()]) == [None]
    assert len(connection.batches) == 2


def test_a_free_one_that_a_cut_statement_has_booked_is_answered(monkeypatch):
    failures = [psycopg.errors.UniqueViolation("usage")]

    def look(batch):
        if failures:
            raise failures.pop()

    assert settle(monkeypatch, FakeConnection(look), [make_prediction()]) == [None]


def test_the_same_refusal_twice_is_an_error(monkeypatch):
    def look(batch):
        raise psycopg.errors.UniqueViolation("usage")

    (result,) = settle(monkeypatch, FakeConnection(look), [make_prediction()])

    assert isinstance(result, MarketplaceError)


@pytest.mark.parametrize("_extra", [0, 1])
def test_an_output_is_kept_up_to_its_limit(monkeypatch, _extra):
    # Two quotes are part of the JSON.
    output = "x" * (STORED_OUTPUT_BYTES_MAX - 2 + _extra)
    connection = FakeConnection()

    settle(monkeypatch, connection, [make_prediction(SimpleNamespace(key="k"), output)])

    ((entry,),) = connection.batches
    assert entry["output"] == (None if _extra else output)
