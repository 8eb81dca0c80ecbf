"""Giving up: who has gone or cancels is not charged, and what is booked stays booked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import time
from types import SimpleNamespace
from uuid import UUID

import pytest

from inference.gateway.catalog import Priced
from inference.gateway.coalesce import Coalescer
from inference.gateway.errors import CanceledError, ClientGoneError
from inference.gateway.prediction import Prediction as Running_
from inference.gateway.running import CANCELLATION, Running
from inference.models import APIRequest, Prediction
from marketplace.core.clock import utc_now
from marketplace.core.ids import from_public, new_id, to_public
from strongroom.rating import Terms
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    REPLICA_IDS,
    check_books,
    check_holds,
    check_nothing_booked,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually
from tests.gateway.test_coalesce import Replica, row, turn

SLOW_S = 2
COUNTED = {"X-Stainless-Retry-Count": "0"}


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def list_claimed() -> list[str]:
    """The predictions that run now and whose clients count their attempts, or have a key."""
    running = APIRequest.objects.filter(completed_at=None).order_by("pk")
    return [to_public(one) for one in running.values_list("prediction_id", flat=True)]


def find_running(count: int = 1) -> list[str]:
    def look():
        assert len(list_claimed()) == count
        return list_claimed()

    return eventually(look)


def check_recorded(*rows: tuple[str, str]):
    found = Prediction.objects.exclude(state="succeeded").values_list("state", "error")
    assert sorted(found) == sorted(rows)


# --- A prediction and its registry, alone ---


KEY = SimpleNamespace(is_implied=False)
OFFER = SimpleNamespace(version_id=new_id(), model="maker/echo", number=1)


def make_prediction(*, claim=None) -> Running_:
    caller = SimpleNamespace(is_test=True, account_id=new_id())
    return Running_(
        id=new_id(),
        caller=caller,
        offer=OFFER,
        price=Priced(new_id(), Terms(1)),
        protocol="native",
        rows=1,
        created_at=utc_now(),
        deadline_s=time.monotonic() + 60,
        claim=claim,
    )


class Client:
    """The connection of a request; `leave` closes it."""

    def __init__(self, *, age_s: float = 1.0) -> None:
        self.started_s = time.monotonic() - age_s
        self.protocol = self
        self.gone = asyncio.Event()
        self.watched = 0

    async def client_disconnect(self):
        self.watched += 1
        await self.gone.wait()


def test_only_slow_requests_are_watched():
    async def run():
        running = Running()
        slow, fast = make_prediction(), make_prediction()
        clients = [Client(age_s=1), Client(age_s=0)]
        for prediction, client in zip((slow, fast), clients, strict=True):
            running.enter(prediction, client)
        for _ in range(3):
            running.sweep()
            await turn()
        assert [one.watched for one in clients] == [1, 0]
        for client in clients:
            client.gone.set()
        await turn()
        assert isinstance(slow.stopped, ClientGoneError)
        assert fast.stopped is None
        for prediction in (slow, fast):
            running.leave(prediction)
        assert not running._runs
        assert not running._fresh

    asyncio.run(run())


def test_who_has_a_key_may_come_back():
    async def run():
        running, keyed, client = Running(), make_prediction(claim=KEY), Client()
        running.enter(keyed, client)
        running.sweep()
        client.gone.set()
        await turn()
        assert (client.watched, keyed.stopped) == (0, None)

    asyncio.run(run())


def test_what_is_over_is_watched_no_more():
    async def run():
        running, prediction, client = Running(), make_prediction(), Client()
        running.enter(prediction, client)
        running.sweep()
        await turn()
        running.leave(prediction)
        client.gone.set()
        await turn()
        assert prediction.stopped is None

    asyncio.run(run())


@pytest.mark.parametrize("_is_first", [True, False])
def test_of_booking_and_cancellation_exactly_one_wins(_is_first):
    running, prediction = Running(), make_prediction()
    running.enter(prediction, SimpleNamespace())
    account_id = prediction.caller.account_id
    if _is_first:
        assert running.cancel(account_id, prediction.id) is prediction
        with pytest.raises(CanceledError):
            prediction.begin_booking()
        assert not prediction.is_booking
    else:
        prediction.begin_booking()
        assert running.cancel(account_id, prediction.id) is None
        assert prediction.stopped is None


def test_notice_cancels_the_accounts_own_prediction_only():
    running, prediction = Running(), make_prediction()
    running.enter(prediction, SimpleNamespace())
    account_id = prediction.caller.account_id
    for table, row_id in (
        ("inference_replica", f"{account_id}:{prediction.id}"),
        (CANCELLATION, f"{new_id()}:{prediction.id}"),
        (CANCELLATION, f"{account_id}:{new_id()}"),
        (CANCELLATION, "nonsense"),
    ):
        running.on_change(table, row_id)
    assert prediction.stopped is None
    running.on_change(CANCELLATION, f"{account_id}:{prediction.id}")
    assert isinstance(prediction.stopped, CanceledError)


def test_who_stops_leaves_the_line_at_once_and_the_call_keeps_its_place():
    async def run():
        calls, replica = Coalescer(4, calls_max=1), Replica()
        predictions = [make_prediction() for _ in range(3)]

        def ask(prediction):
            infer = calls.infer(
                replica,
                [row(1)],
                deadline_s=time.monotonic() + 60,
                on_start=prediction.start,
                on_wait=prediction.wait_on,
            )
            return asyncio.create_task(infer)

        tasks = [ask(predictions[0])]
        await turn()
        tasks += [ask(one) for one in predictions[1:]]
        await turn()
        assert calls.load == 3
        assert all(one.stop(CanceledError()) for one in predictions[:2])
        await turn()
        assert [one.done() for one in tasks] == [True, True, False]
        # The first has left for the model server, which cannot be told.
        assert (calls.load, calls.running) == (2, 1)
        replica.gate.release()
        replica.gate.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in results[:2]] == [CanceledError] * 2
        assert len(replica.calls) == 2

    asyncio.run(run())


def test_who_stopped_before_does_not_begin_to_wait():
    async def run():
        prediction = make_prediction()
        assert prediction.stop(CanceledError())
        waited = asyncio.get_running_loop().create_future()
        prediction.wait_on(waited)
        with pytest.raises(CanceledError):
            await waited

    asyncio.run(run())


# --- Clients that go ---


@pytest.mark.django_db(transaction=True)
def test_clients_that_go_leave_the_line_and_their_holds(shop, triton):
    """The model is busy with the first; those who wait behind it go, and never reach it."""
    shop.fund(100_000_000)
    client = shop.client()
    predict(client)
    before = triton.count_calls(REPLICA_IDS[0])
    body = b'{"input":{"x":[1,2,3,4],"wait_s":%d}}'
    wires = []
    for wait_s in (SLOW_S, SLOW_S, *[0] * 20):
        wire = socket.create_connection(("127.0.0.1", int(shop.url.rpartition(":")[2])))
        text = body % wait_s
        head = (
            "POST /v1/models/maker/echo/predictions HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {shop.key.text}\r\nContent-Length: {len(text)}\r\n"
            "X-Stainless-Retry-Count: 0\r\n\r\n"
        )
        wire.sendall(head.encode() + text)
        wires.append(wire)
        find_running(len(wires))
    started_s = time.monotonic()
    for wire in wires:
        wire.close()

    eventually(lambda: check_recorded(*[("canceled", "client_gone")] * len(wires)))
    eventually(lambda: check_holds(shop))
    assert time.monotonic() - started_s < SLOW_S
    # What waited never came to the model; those two that ran there could not be called back.
    answered = predict(client).json()["id"]
    check_books(shop, [*to_list("succeeded", besides=answered), answered])
    assert triton.count_calls(REPLICA_IDS[0]) - before <= 3


def to_list(state: str, *, besides: str) -> list[str]:
    found = [
        to_public(one)
        for one in Prediction.objects.filter(state=state).values_list("pk", flat=True)
    ]
    return [one for one in found if one != besides]


@pytest.mark.django_db(transaction=True)
def test_client_with_a_key_may_go_and_come_back(shop):
    client = shop.client()
    client.timeout = 0.5
    headers = {"Idempotency-Key": "k"}
    with pytest.raises(Exception, match="timed out"):
        predict(client, headers=headers, wait_s=1)
    client.timeout = 30

    def come_back():
        response = predict(client, headers=headers, wait_s=1)
        assert response.status_code == 200
        return response.json()["id"]

    check_books(shop, [eventually(come_back)])


# --- Cancellations ---


@pytest.mark.django_db(transaction=True)
def test_canceled_prediction_is_answered_as_such_and_costs_nothing(shop, client, pool):
    asked = pool.submit(predict, client, headers=COUNTED, wait_s=SLOW_S)
    [public_id] = find_running()
    cancel = client.post(f"/v1/predictions/{public_id}/cancel")
    answer = asked.result()

    assert (cancel.status_code, cancel.json()["status"]) == (200, "canceled")
    assert (answer.status_code, answer.json()["status"]) == (201, "canceled")
    assert answer.json()["id"] == cancel.json()["id"] == public_id
    assert answer.headers["x-cost-nano-usd"] == cancel.headers["x-cost-nano-usd"] == "0"
    eventually(lambda: check_recorded(("canceled", "canceled")))
    shown = client.get(f"/v1/predictions/{public_id}").json()
    assert (shown["status"], shown["metrics"]["cost_nano_usd"]) == ("canceled", 0)
    check_nothing_booked(shop)


@pytest.mark.django_db(transaction=True)
def test_another_gateway_may_be_asked_to_cancel(shop, client, start_gateway, pool):
    elsewhere = shop.client(url=start_gateway().url)
    asked = pool.submit(predict, client, headers=COUNTED, wait_s=SLOW_S)
    [public_id] = find_running()
    cancel = elsewhere.post(f"/v1/predictions/{public_id}/cancel")

    assert (cancel.status_code, cancel.json()["status"]) == (200, "canceled")
    assert asked.result().json()["status"] == "canceled"
    check_nothing_booked(shop)


@pytest.mark.django_db(transaction=True)
def test_canceled_key_is_free_again(shop, client, pool):
    headers = {"Idempotency-Key": "k"}
    asked = pool.submit(predict, client, headers=headers, wait_s=SLOW_S)
    [public_id] = find_running()
    client.post(f"/v1/predictions/{public_id}/cancel")
    assert asked.result().json()["status"] == "canceled"

    check_books(shop, [predict(client, headers=headers).json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_other_protocols_say_canceled_in_their_own_words(shop, client, pool):
    tensors = [
        {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "wait_s", "shape": [1, 1], "datatype": "FP32", "data": [SLOW_S]},
    ]
    path = "/v2/models/maker/echo/infer"
    asked = pool.submit(client.post, path, json={"inputs": tensors}, headers=COUNTED)
    [public_id] = find_running()
    client.post(f"/v1/predictions/{public_id}/cancel")
    answer = asked.result()

    assert (answer.status_code, answer.headers["x-should-retry"]) == (499, "false")
    assert "canceled" in answer.json()["error"]
    check_nothing_booked(shop)


@pytest.mark.django_db(transaction=True)
def test_predictions_of_others_cannot_be_canceled(shop, client, pool):
    outsider = shop.client(APIKeyFactory().text)
    asked = pool.submit(predict, client, headers=COUNTED, wait_s=1.5)
    [public_id] = find_running()

    refused = outsider.post(f"/v1/predictions/{public_id}/cancel")

    assert problem_of(refused) == (404, "not_found")
    check_books(shop, [asked.result().json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_prediction_that_never_was_cannot_be_canceled(shop, client):
    response = client.post(f"/v1/predictions/{to_public(new_id())}/cancel")

    assert problem_of(response) == (404, "not_found")


@pytest.mark.django_db(transaction=True)
def test_cancellations_against_bookings_leave_one_end_each(shop, client, pool):
    """Cancelled at all moments of a run: either answered and charged, or neither."""
    shop.fund(1_000_000_000)
    runs = [pool.submit(predict, client, headers=COUNTED, wait_s=0.05) for _ in range(8)]
    canceled, answered = 0, []
    while not all(one.done() for one in runs):
        for public_id in list_claimed():
            response = client.post(f"/v1/predictions/{public_id}/cancel")
            assert response.status_code == 200
    for one in runs:
        document = one.result().json()
        if document["status"] == "canceled":
            canceled += 1
        else:
            assert document["status"] == "succeeded"
            answered.append(document["id"])
    assert canceled + len(answered) == len(runs)
    check_books(shop, answered)
    eventually(lambda: check_recorded(*[("canceled", "canceled")] * canceled))
    assert {UUID(str(from_public(one))) for one in answered}.isdisjoint(
        Prediction.objects.filter(state="canceled").values_list("pk", flat=True)
    )
