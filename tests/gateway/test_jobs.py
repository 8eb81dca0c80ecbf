"""Predictions that run later, from the API through the queue to a node with a real Triton."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import httpx
import psycopg
import pytest
from django.utils import timezone

from billing.models import Hold, UsageEvent
from inference.broker.job import TIMEOUT_MAX_S
from inference.models import Job, JobAttempt, JobFlow, JobPace, Node, Prediction
from marketplace.core.ids import from_public, new_id, to_public
from tests.gateway.conftest import (
    PRICE_NANOS,
    REPLICA_IDS,
    X,
    check_books,
    make_node,
    problem_of,
)
from tests.gateway.processes import eventually
from tests.gateway.pulling import PullingNode, give_token

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
def pull(shop, triton) -> Iterator:
    """Starts nodes that pull."""
    started: list[PullingNode] = []

    def start(node=None, **options) -> PullingNode:
        found = PullingNode(
            shop.url, node or shop.node, triton, {shop.version.pk: REPLICA_IDS[0]}, **options
        )
        started.append(found)
        return found

    yield start
    for one in started:
        one.stop()


def submit(client: httpx.Client, headers=None, **given) -> dict:
    members = {name: given.pop(name) for name in ("priority",) if name in given}
    answer = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X} | given, **members},
        headers=ASYNC | (headers or {}),
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def show(client: httpx.Client, prediction: dict) -> dict:
    answer = client.get(f"/v1/predictions/{prediction['id']}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for(client: httpx.Client, prediction: dict, *statuses: str) -> dict:
    def check() -> dict:
        found = show(client, prediction)
        assert found["status"] in (statuses or ("succeeded",)), found
        return found

    return eventually(check, timeout_s=60)


def test_a_job_waits_runs_and_is_paid_for(shop, client, pull):
    made = submit(client, {"Prefer": "respond-async, something-else"})
    assert made["status"] == "starting"
    assert made["output"] is None
    assert made["input"]["x"] == X
    assert made["progress"]["stage"] == "queued"
    assert made["progress"]["position"] == 1
    assert Hold.objects.get().amount_nanos == PRICE_NANOS
    listed = client.get("/v1/predictions").json()["results"]
    assert [one["id"] for one in listed] == [made["id"]]

    pull()
    done = wait_for(client, made)

    assert done["output"]["y"] == [2 * one for one in X]
    assert done["metrics"]["cost_nano_usd"] == PRICE_NANOS
    assert done["metrics"]["predict_time"] > 0
    assert "progress" not in done
    check_books(shop, [made["id"]])
    receipt = client.get(f"/v1/predictions/{made['id']}/receipt")
    assert receipt.status_code in (200, 409)  # It is sealed a little later.


def test_who_would_wait_gets_the_answer_if_it_comes_in_time(shop, client, pull):
    pull()

    answer = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X}},
        headers={"Prefer": "respond-async, wait=30"},
    )

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async, wait=30"
    assert answer.json()["status"] == "succeeded"


def test_who_waits_in_vain_is_told_that_it_starts(client):
    answer = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X}},
        headers={"Prefer": "respond-async, wait=1"},
    )

    assert (answer.status_code, answer.json()["status"]) == (202, "starting")


def test_a_database_that_is_away_at_the_end_fails_nobodys_job(shop, client, pull, database_urls):
    """What the model found is handed in while nobody can read a price, and then again."""
    made = submit(client)
    with ExitStack() as locks:
        has_come_again = threading.Event()
        locker = locks.enter_context(psycopg.connect(database_urls["owner"]))

        def bend(job, infer):
            outputs = infer(job)
            locker.execute("LOCK TABLE billing_price IN ACCESS EXCLUSIVE MODE")
            return outputs

        node = pull(bend=bend)
        finish, comings = node.queue.finish, []

        def count_comings(*arguments):
            comings.append(arguments)
            if len(comings) == 2:
                has_come_again.set()
            return finish(*arguments)

        node.queue.finish = count_comings
        assert has_come_again.wait(120)

    found = eventually(lambda: _require_over(client, made), timeout_s=60)
    assert (found["status"], found["error"]) == ("succeeded", None)
    assert JobAttempt.objects.count() == 1
    check_books(shop, [made["id"]])


def _require_over(client: httpx.Client, prediction: dict) -> dict:
    found = show(client, prediction)
    assert found["status"] not in ("starting", "processing")
    return found


def test_a_fault_of_the_model_is_told_and_costs_nothing(shop, client, pull):
    pull()

    found = wait_for(client, submit(client, mode="fail"), "failed")

    assert found["error"] == "model_failed"
    assert found["metrics"]["cost_nano_usd"] == 0
    assert JobAttempt.objects.count() == 1
    check_books(shop, [])


def test_an_output_that_breaks_the_promise_costs_nothing(shop, client, pull):
    pull()

    assert wait_for(client, submit(client, mode="nan"), "failed")["error"] == "output_invalid"
    check_books(shop, [])


def test_a_run_that_is_canceled_stops_and_costs_nothing(shop, client, pull):
    pull()
    made = submit(client, wait_s=30)
    wait_for(client, made, "processing")

    client.post(f"/v1/predictions/{made['id']}/cancel")
    found = wait_for(client, made, "canceled")

    assert found["metrics"]["cost_nano_usd"] == 0
    assert Job.objects.get().finished_at - Job.objects.get().created_at < timedelta(seconds=25)
    check_books(shop, [])


def test_what_waits_is_canceled_at_once(shop, client):
    made = submit(client)

    answer = client.post(f"/v1/predictions/{made['id']}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert not Hold.objects.filter(state="pending").exists()


def test_another_account_neither_sees_nor_cancels_it(shop, client):
    from tests.factories import APIKeyFactory

    made = submit(client)
    other = shop.client(APIKeyFactory().text)

    assert other.get(f"/v1/predictions/{made['id']}").status_code == 404
    assert other.post(f"/v1/predictions/{made['id']}/cancel").status_code == 404
    assert other.get("/v1/predictions").json()["results"] == []
    assert show(client, made)["status"] == "starting"


def test_a_keyed_retry_gets_the_first_one(shop, client, pull):
    key = {"Idempotency-Key": "a"}
    first, second = submit(client, key), None
    answer = client.post(
        "/v1/models/maker/echo/predictions", json={"input": {"x": X}}, headers=ASYNC | key
    )
    second = answer.json()
    assert (answer.status_code, second["id"], second["status"]) == (200, first["id"], "starting")

    pull()
    wait_for(client, first)
    check_books(shop, [first["id"]])


def test_without_credit_nothing_waits(shop, client):
    for _ in range(10):
        submit(client)

    answer = client.post(
        "/v1/models/maker/echo/predictions", json={"input": {"x": X}}, headers=ASYNC
    )

    assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_credit")
    assert Job.objects.count() == 10


@pytest.mark.parametrize(
    ("headers", "members", "pointer"),
    [
        ({}, {"priority": "urgent"}, "/priority"),
        ({}, {"priority": 1}, "/priority"),
        ({}, {"webhook": "http://127.0.0.1/"}, "/webhook"),
        ({"Prefer": ""}, {"priority": "batch"}, "/priority"),
    ],
)
def test_what_cannot_be_kept_is_refused(shop, client, headers, members, pointer):
    answer = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X}, **members},
        headers=ASYNC | headers,
    )

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Cancel-After": "4s"}, 400),
        ({"Cancel-After": "5s"}, 202),
        ({"Cancel-After": "99h"}, 202),
        ({"X-Strongroom-Retry": "sometimes"}, 400),
        ({"X-Strongroom-Retry": "never"}, 202),
    ],
)
def test_headers_say_how_it_is_run(shop, client, headers, status):
    answer = client.post(
        "/v1/models/maker/echo/predictions", json={"input": {"x": X}}, headers=ASYNC | headers
    )

    assert answer.status_code == status
    if status == 202:
        job = Job.objects.get()
        assert job.attempts_max == (1 if "X-Strongroom-Retry" in headers else 3)
        assert job.deadline_at <= job.created_at + timedelta(seconds=TIMEOUT_MAX_S)


def test_a_node_that_dies_loses_its_job_to_another(shop, client, pull, triton):
    """The second node gets it once the lease is over; what the first finds is discarded."""
    held: list = []

    def hang(job, infer):
        held.append(job)
        outputs = infer(job)
        while not job.cancelled.wait(0.1):
            pass
        return outputs

    first = pull(bend=hang)
    made = submit(client)
    eventually(lambda: _require(held), timeout_s=30)
    node = make_node("node-2", triton.config.http_url, triton.config.grpc_url)
    first.queue.heartbeat = lambda beats: {"words": {}}  # The platform does not hear it any more.
    Job.objects.update(lease_until=Job.objects.get().created_at)

    second = pull(node)
    done = wait_for(client, made)

    assert second.ran == [from_public(made["id"])]
    assert done["output"]["y"] == [2 * one for one in X]
    assert list(JobAttempt.objects.order_by("epoch").values_list("outcome", flat=True)) == [
        "lost",
        "succeeded",
    ]
    first.stop()
    check_books(shop, [made["id"]])


def test_a_node_that_is_told_to_stop_hands_back_what_it_cannot_finish(shop, client, pull, triton):
    first = pull()
    made = submit(client, wait_s=30)
    wait_for(client, made, "processing")

    first.stop(timeout_s=0.5)

    job = Job.objects.get()
    assert (job.state, job.error) == ("queued", "node_drained")
    assert Prediction.objects.count() == UsageEvent.objects.count() == 0


def test_a_node_that_is_told_to_stop_finishes_what_it_can(shop, client, pull):
    node = pull()
    made = submit(client, wait_s=1)
    wait_for(client, made, "processing")

    node.stop(timeout_s=30)

    assert show(client, made)["status"] == "succeeded"
    check_books(shop, [made["id"]])


def test_a_node_that_is_drained_finishes_and_takes_no_more(shop, client, pull):
    node = pull()
    first = submit(client, wait_s=6)
    wait_for(client, first, "processing")
    Node.objects.filter(pk=shop.node.pk).update(drain_requested_at=timezone.now())
    second = submit(client)

    assert wait_for(client, first)["status"] == "succeeded"
    # The gateway believes for five seconds what it knows of a node.
    assert show(client, second)["progress"]["stage"] == "queued"
    assert node.ran == [from_public(first["id"])]
    # Whoever is idle hears of it as well: it asks, and gets nothing.
    assert node.queue.claim(0, [shop.version.pk], 1.0) == b""

    Node.objects.filter(pk=shop.node.pk).update(drain_requested_at=None)
    wait_for(client, second)
    check_books(shop, [first["id"], second["id"]])


def test_places_count_what_is_not_on_offer_yet(shop, client):
    made = [submit(client)]
    JobFlow.objects.update(offered_max=2)
    made += [submit(client) for _ in range(3)]
    made.append(submit(client, priority="high"))

    places = [show(client, one)["progress"]["position"] for one in made]

    # Two are on offer; the urgent one is the next that will be.
    assert places == [1, 2, 4, 5, 3]


def test_a_long_line_of_one_s_own_is_refused_and_not_that_of_others(shop, client):
    submit(client)
    JobFlow.objects.update(offered_max=1)
    submit(client)
    # Half an hour each: the third would wait for an hour.
    JobPace.objects.create(version_id=shop.version.pk, mean_us=1_801_000_000, job_count=1)

    refused = client.post(
        "/v1/models/maker/echo/predictions", json={"input": {"x": X}}, headers=ASYNC
    )

    assert problem_of(refused) == (429, "job_queue_full")
    assert int(refused.headers["retry-after"]) >= 2
    # At the limit it is taken.
    JobPace.objects.update(mean_us=1_800_000_000)
    submit(client)


def test_a_slot_runs_one_at_a_time(shop, client, pull):
    together: list[int] = []
    running: list = []

    def watch(job, infer):
        running.append(job)
        together.append(len(running))
        try:
            return infer(job)
        finally:
            running.remove(job)

    made = [submit(client, wait_s=0.1) for _ in range(6)]
    pull(bend=watch)
    for one in made:
        wait_for(client, one)

    assert together == [1] * 6
    check_books(shop, [one["id"] for one in made])


def _require(held: list) -> None:
    assert held


def call(shop, node, path: str, **body) -> httpx.Response:
    headers = {"Authorization": f"Bearer {give_token(node)}"}
    return httpx.post(f"{shop.url}/node/v1/{path}", json=body, headers=headers, timeout=40)


def test_only_a_node_pulls(shop, client):
    body = {"slot": 0, "version_ids": []}
    assert httpx.post(f"{shop.url}/node/v1/claim", json=body).status_code == 401
    assert client.post("/node/v1/claim", json=body).status_code == 401
    assert call(shop, shop.node, "claim", **body).status_code == 204
    shop.node.revoked_at = shop.node.enrolled_at
    shop.node.save()
    assert call(shop, shop.node, "claim", **body).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"slot": -1, "version_ids": []},
        {"slot": 64, "version_ids": []},
        {"slot": True, "version_ids": []},
        {"slot": 0, "version_ids": ["x"]},
        {"slot": 0, "version_ids": [], "wait_s": 31},
        {"slot": 0, "version_ids": [str(new_id())] * 1001},
    ],
)
def test_a_node_that_asks_wrongly_is_told(shop, body):
    assert call(shop, shop.node, "claim", **body).status_code == 400


def test_a_node_does_not_claim_twice_nor_finish_what_is_anothers(shop, client, triton):
    made = submit(client)
    body = {"slot": 0, "version_ids": [str(shop.version.pk)]}
    assert call(shop, shop.node, "claim", **body).status_code == 200
    answer = call(shop, shop.node, "claim", **body)
    assert (answer.status_code, answer.json()["code"]) == (409, "slot_busy")
    other = make_node("node-2", triton.config.http_url, triton.config.grpc_url)
    path = f"jobs/{from_public(made['id'])}/hand-back"

    assert call(shop, other, path, epoch=1, code="x").json() == {"state": "stale"}
    assert call(shop, shop.node, path, epoch=2, code="x").json() == {"state": "stale"}
    assert call(shop, shop.node, path, epoch=1, code="x").json() == {"state": "queued"}


def test_a_claim_waits_for_work(shop, client):
    import threading

    answers: list[httpx.Response] = []
    body = {"slot": 0, "version_ids": [str(shop.version.pk)], "wait_s": 30}
    thread = threading.Thread(target=lambda: answers.append(call(shop, shop.node, "claim", **body)))
    thread.start()
    time.sleep(0.5)
    submit(client)
    thread.join(40)

    assert [one.status_code for one in answers] == [200]


def test_no_such_prediction(client):
    assert client.post(f"/v1/predictions/{to_public(new_id())}/cancel").status_code == 404
