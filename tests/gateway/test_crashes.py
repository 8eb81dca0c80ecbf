"""Whatever dies, nothing is charged twice, and nothing is charged that was not answered."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from billing.models import Hold
from billing.services import ledger
from inference.models import Prediction, Replica
from marketplace.core.ids import new_id
from marketplace.models import APIKey
from tests import servers
from tests.gateway.conftest import (
    PRICE_NANOS,
    check_books,
    check_nothing_booked,
    make_node,
    predict,
    problem_of,
)
from tests.gateway.processes import ToyTriton, Wire, eventually

pytestmark = pytest.mark.django_db(transaction=True)

# Older than any other, so that it is asked first.
DOOMED_ID = new_id()


@pytest.fixture
def doomed(shop, tmp_path, interface):
    """A second tritonserver, for tests that do not leave it whole."""
    server = ToyTriton(tmp_path, interface, [DOOMED_ID])
    shop.add_replica(DOOMED_ID, node=make_node("doomed", server.config.http_url))
    yield server
    server.kill()
    server.stop()


@pytest.fixture
def wire(database_urls):
    wire = Wire(urlsplit(database_urls["gateway"]).port)
    yield wire
    wire.close()


@pytest.fixture
def wired(wire, database_urls, start_gateway):
    """Starts a gateway behind the wire."""

    def start(**settings: str):
        parts = urlsplit(database_urls["gateway"])
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{wire.port}"
        return start_gateway(parts._replace(netloc=netloc).geturl(), **settings)

    return start


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def wait_for_hold():
    def check_held():
        assert Hold.objects.filter(state=Hold.State.PENDING).exists()

    eventually(check_held)


# --- Triton ---


def test_triton_killed_in_mid_call_costs_nothing(shop, client, doomed, pool):
    Replica.objects.filter(pk=shop.replica.pk).delete()
    response = pool.submit(predict, client, wait_s=10)
    wait_for_hold()
    time.sleep(0.2)

    doomed.kill()

    assert problem_of(response.result()) == (503, "triton_unavailable")
    assert int(response.result().headers["retry-after"]) > 0
    check_nothing_booked(shop)
    eventually(check_failure)


def check_failure():
    rows = Prediction.objects.values_list("state", "error", "cost_nanos")
    assert list(rows) == [("failed", "triton_unavailable", 0)]


def test_triton_killed_in_mid_call_is_made_good_by_another_replica(shop, client, doomed, pool):
    response = pool.submit(predict, client, wait_s=2)
    wait_for_hold()
    time.sleep(0.2)

    doomed.kill()

    assert response.result().status_code == 201
    check_books(shop, [response.result().json()["id"]])
    # The dead one stands aside: the next is not even tried there.
    assert predict(client).status_code == 201


def test_dead_stub_costs_nothing(shop, client, doomed):
    Replica.objects.filter(pk=shop.replica.pk).delete()

    response = predict(client, mode="die")

    assert problem_of(response) == (503, "triton_unavailable")
    check_nothing_booked(shop)


def test_unloaded_model_is_asked_elsewhere(shop, client, triton):
    """The row says ready, and Triton knows no such model."""
    shop.add_replica(DOOMED_ID)

    response = predict(client)

    assert response.status_code == 201
    check_books(shop, [response.json()["id"]])
    Replica.objects.filter(pk=shop.replica.pk).delete()

    def check_not_ready():
        assert problem_of(predict(client)) == (503, "model_not_ready")

    eventually(check_not_ready)  # Once the news has reached the gateway.


# --- The gateway ---


def test_gateway_killed_between_hold_and_booking_charges_nothing(shop, start_gateway, pool):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    response = pool.submit(predict, client, wait_s=2)
    wait_for_hold()

    gateway.kill()

    with pytest.raises(httpx.HTTPError):
        response.result()
    time.sleep(2)  # Triton ends its work, and nobody is there to book it.
    hold = Hold.objects.get()
    assert (hold.state, hold.amount_nanos) == (Hold.State.PENDING, PRICE_NANOS)
    assert ledger.expire_holds() == 0
    age = hold.expires_at - hold.created_at
    assert timedelta(seconds=90) < age < timedelta(seconds=300)
    Hold.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert ledger.expire_holds() == 1
    check_nothing_booked(shop)
    assert Prediction.objects.count() == 0


def test_gateway_that_is_told_to_stop_answers_first(shop, start_gateway, pool):
    gateway = start_gateway()
    response = pool.submit(predict, shop.client(url=gateway.url), wait_s=1)
    wait_for_hold()

    gateway.stop()

    assert response.result().status_code == 201
    check_books(shop, [response.result().json()["id"]])
    assert gateway.process.returncode == 0


def test_hold_that_expired_under_a_running_prediction_books_nothing(shop, client, pool):
    response = pool.submit(predict, client, wait_s=1)
    wait_for_hold()
    Hold.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert ledger.expire_holds() == 1

    assert problem_of(response.result()) == (504, "deadline")
    check_nothing_booked(shop)


# --- Postgres ---


def test_lost_acknowledgement_of_a_booking_is_found_out(shop, wire, wired):
    client = shop.client(url=wired().url)
    first = predict(client)
    wire.lose_next_booking = True

    second = predict(client)

    assert wire.lost_count == 1
    assert second.status_code == 201
    check_books(shop, [first.json()["id"], second.json()["id"]])


def test_booking_waits_for_postgres_to_come_back(shop, wire, wired, pool):
    client = shop.client(url=wired().url)
    response = pool.submit(predict, client, wait_s=1)
    wait_for_hold()
    wire.cut()
    time.sleep(2.5)
    assert not response.done()

    wire.mend()

    assert response.result().status_code == 201
    check_books(shop, [response.result().json()["id"]])


def test_booking_that_postgres_never_sees_charges_nothing(shop, wire, wired, pool):
    client = shop.client(url=wired(STRONGROOM_GATEWAY_SETTLE_WAIT_S="1").url)
    predict(client, x=[1])
    response = pool.submit(predict, client, wait_s=1)
    wait_for_hold()
    wire.cut()

    assert problem_of(response.result()) == (503, "database_unavailable")
    wire.mend()
    check_nothing_booked(shop)


def test_unanswered_booking_is_told_to_be_unknown(shop, wire, wired, pool):
    client = shop.client(url=wired(STRONGROOM_GATEWAY_SETTLE_WAIT_S="1").url)
    first = predict(client)
    wire.lose_next_booking = wire.cut_on_loss = True

    response = predict(client)

    assert problem_of(response) == (503, "booking_unknown")
    assert response.headers["x-should-retry"] == "false"
    wire.mend()
    shown = eventually(lambda: check_shown(client, response.headers["inference-id"]))
    # Its booking had arrived: asking tells so, and nothing is charged twice.
    assert shown["status"] == "succeeded"
    check_books(shop, [first.json()["id"], shown["id"]])


def check_shown(client, public_id):
    response = client.get(f"/v1/predictions/{public_id}")
    assert response.status_code == 200
    return response.json()


def test_without_postgres_nothing_is_sold_and_afterwards_it_is(shop, wire, wired):
    client = shop.client(url=wired().url)
    first = predict(client).json()["id"]
    wire.cut()

    refused = predict(client)
    assert problem_of(refused) == (503, "database_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert client.get("/health").status_code == 503
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200

    wire.mend()
    response = eventually(lambda: check_created(predict(client)))
    check_books(shop, [first, response.json()["id"]])


def test_a_postgres_that_falls_silent_is_left_for_one_that_answers(shop, wire, wired):
    client = shop.client(url=wired().url)
    client.timeout = httpx.Timeout(90)
    first = predict(client).json()["id"]
    wire.hush()

    # Not even an end of the connection is heard; whoever connects anew gets through.
    silent = predict(client)
    assert silent.status_code in (201, 503)
    answered = [silent.json()["id"]] if silent.status_code == 201 else []

    later = predict(client)

    assert later.status_code == 201, later.text
    check_books(shop, [first, *answered, later.json()["id"]])


def check_created(response):
    assert response.status_code == 201
    return response


def test_key_that_was_revoked_while_nothing_was_heard_is_refused(shop, wire, wired):
    client = shop.client(url=wired().url)
    assert predict(client).status_code == 201
    wire.cut()
    APIKey.objects.filter(pk=shop.key.pk).update(revoked_at=timezone.now())
    wire.mend()

    statuses = []

    def check_refused():
        statuses.append(predict(client).status_code)
        assert statuses[-1] == 401

    eventually(check_refused)
    assert 201 not in statuses


def test_crash_of_postgres_under_load_loses_and_doubles_nothing(shop, client, pool, database_urls):
    """A backend dies by SIGKILL, so Postgres throws everyone out and recovers from its log."""
    shop.fund(10_000 * PRICE_NANOS)
    answered, refused, stop = [], [], threading.Event()
    # What hundreds of tests have emptied since the last one is not read again by the recovery.
    with psycopg.connect(servers.provide().superuser_url, autocommit=True) as superuser:
        superuser.execute("CHECKPOINT")

    def run():
        while not stop.is_set():
            response = predict(client)
            (answered if response.status_code == 201 else refused).append(response)

    jobs = [pool.submit(run) for _ in range(8)]
    try:
        eventually(lambda: check_count(answered, 50), timeout_s=30)
        with psycopg.connect(database_urls["owner"]) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with pytest.raises(psycopg.OperationalError):
                eventually(lambda: check_lost(victim))
            # It is broken: leaving the block must not try to commit.
            victim.close()
        before = len(answered)
        eventually(lambda: check_count(answered, before + 50), timeout_s=60)
    finally:
        stop.set()
        concurrent.futures.wait(jobs)
        # Else every later test would go on with a connection that is broken.
        connection.close()

    codes = {problem_of(one)[1] for one in refused}
    assert codes <= {"database_unavailable", "deadline"}
    assert len(answered) > 100
    # Holds that the crash took back, or whose end it hid, go when their time is over.
    Hold.objects.filter(state=Hold.State.PENDING).update(expires_at=timezone.now())
    ledger.expire_holds()
    check_books(shop, [one.json()["id"] for one in answered])


def check_count(answered, count):
    assert len(answered) >= count


def check_lost(victim):
    victim.execute("SELECT 1")
    raise AssertionError("still there")
