"""A version that sleeps is woken by whoever calls it, and waiting for it is free."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from datetime import timedelta

import httpx
import pytest
from django.db import connections
from django.utils import timezone

from billing.models import UsageEvent
from inference.gateway.config import WAKE_WAITING_PER_VERSION_MAX
from inference.models import Deployment, Job, Node, Replica, WakeWish
from inference.services import deployment as deployments
from inference.services import wake
from marketplace.core.ids import from_public
from marketplace.models import ModelVersion
from strongroom.interface import Interface
from tests.factories import AccountFactory, APIKeyFactory
from tests.gateway.conftest import (
    INTERFACE,
    LANGUAGE_REPLICA_IDS,
    PRICE_NANOS,
    REPLICA_IDS,
    check_books,
    check_untouched,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually
from tests.gateway.pulling import PullingNode
from tests.gateway.scrape import Scrape
from tests.gateway.test_native_stream import stream
from tests.gateway.watching import Watcher

SHORT = {"X-Request-Timeout-Ms": "1500"}
# Longer than anything takes on a machine that does much else.
LONG = {"X-Request-Timeout-Ms": "55000"}
LOAD_MS = 6_400


@pytest.fixture
def cold(shop):
    """The shop, whose model sleeps."""
    put_to_sleep(shop.version)
    return shop


def put_to_sleep(version: ModelVersion) -> Deployment:
    Replica.objects.filter(version=version).delete()
    ModelVersion.objects.filter(pk=version.pk).update(
        certificate={"benchmark": {"load_ms": LOAD_MS}}
    )
    return Deployment.objects.create(
        version=version,
        idle_after_s=60,
        slept_at=timezone.now(),
        last_wanted_at=timezone.now() - timedelta(hours=1),
    )


def come_up(shop) -> None:
    """As a node that has loaded the version."""
    deployment = Deployment.objects.get()
    Deployment.objects.filter(pk=deployment.pk).update(slept_at=None, waking_since=timezone.now())
    shop.add_replica(REPLICA_IDS[1], deployment=deployment)


def count_waiting(shop) -> float:
    return Scrape(shop.url).sum("waking_requests")


def wait_until(condition, *, timeout_s: float = 30.0) -> None:
    def check() -> None:
        assert condition()

    eventually(check, timeout_s=timeout_s)


def test_a_call_wakes_the_version_waits_for_it_and_pays_the_prediction_alone(cold, triton):
    """With the real control plane, and a real load of the model."""

    def control() -> None:
        wait_until(lambda: wake.answer_wishes() == 1)
        replica = Replica.objects.get(version=cold.version)
        triton.load(Interface.parse(INTERFACE), replica.pk)
        Replica.objects.filter(pk=replica.pk).update(state="ready", changed_at=timezone.now())
        wake.answer_wishes()
        connections.close_all()

    # Of all models: a gateway that has seen many puts the newest together.
    before = Scrape(cold.url).sum("cold_start_seconds_count")
    thread = threading.Thread(target=control)
    thread.start()
    try:
        response = predict(cold.client(), headers=LONG)
    finally:
        thread.join()

    assert response.status_code == 201, response.text
    waited_ms = int(response.headers["x-cold-start-ms"])
    assert 0 < waited_ms < 55_000
    check_books(cold, [response.json()["id"]])
    assert Scrape(cold.url).sum("cold_start_seconds_count") == before + 1
    deployment = Deployment.objects.get()
    assert deployment.slept_at is None
    assert deployment.waking_since is None
    assert 0 < deployment.cold_start_ms < 55_000

    # The next one finds it loaded.
    again = predict(cold.client())
    assert again.status_code == 201
    assert "x-cold-start-ms" not in again.headers


def test_a_time_limit_shorter_than_the_load_is_told_when_to_come_back(cold):
    began_s = time.monotonic()

    response = predict(cold.client(), headers=SHORT)

    assert problem_of(response) == (503, "model_waking")
    assert time.monotonic() - began_s >= 1.0
    assert response.headers["retry-after"] == "7"
    check_untouched(cold)
    # Told as often as once a second, and noted once: the first wish stands for all.
    assert WakeWish.objects.filter(version_id=cold.version.pk).count() == 1


def test_who_waits_for_so_long_comes_back_for_the_answer(cold, triton):
    """With its limits counted once, and nothing reserved before."""
    client = cold.client()
    began_s = time.monotonic()

    response = predict(client, headers={"Prefer": "wait=2", "Idempotency-Key": "a"})

    assert response.status_code == 202, response.text
    assert time.monotonic() - began_s >= 1.0
    assert response.headers["preference-applied"] == "wait=2"
    made = response.json()
    assert (made["status"], made["progress"]["stage"]) == ("starting", "waking")
    assert Job.objects.get().id == from_public(made["id"])
    # The same again is the same prediction.
    again = predict(client, headers={"Prefer": "wait=2", "Idempotency-Key": "a"})
    assert (again.status_code, again.json()["id"]) == (200, made["id"])

    come_up(cold)
    node = PullingNode(cold.url, cold.node, triton, {cold.version.pk: REPLICA_IDS[1]})
    try:
        eventually(
            lambda: _require_status(client, made["id"], "succeeded"),
            timeout_s=60,
        )
    finally:
        node.stop()
    check_books(cold, [made["id"]])


def test_who_does_not_say_how_long_it_waits_gets_no_job(cold):
    """A control: without the header, and where the model can not stream, all is as it was."""
    assert problem_of(predict(cold.client(), headers=SHORT)) == (503, "model_waking")
    assert not Job.objects.exists()


def test_who_could_not_pay_gets_no_job(cold):
    poor = APIKeyFactory(account=AccountFactory(slug="poor"))

    response = predict(cold.client(poor.text), headers={"Prefer": "wait=2"})

    assert problem_of(response) == (402, "insufficient_credit")
    assert not Job.objects.exists()


def test_where_no_node_is_free_it_stays_waking(cold):
    Node.objects.update(triton_ready=False)
    assert problem_of(predict(cold.client(), headers=SHORT)) == (503, "model_waking")
    assert wake.answer_wishes() == 1
    assert not Replica.objects.exists()

    assert problem_of(predict(cold.client(), headers=SHORT)) == (503, "model_waking")

    Node.objects.update(triton_ready=True, last_seen_at=timezone.now())
    deployments.place_replicas(deployment_id=Deployment.objects.get().pk)
    assert Replica.objects.count() == 1
    check_untouched(cold)


@pytest.fixture
def missing(cold):
    """The shop, whose model does not sleep, and which no node has."""
    Deployment.objects.update(slept_at=None, last_wanted_at=timezone.now())
    # It is heard for as long as the test takes.
    Node.objects.update(last_seen_at=timezone.now() + timedelta(hours=1))
    return cold


def test_a_version_that_was_never_placed_is_placed_by_its_callers_once(missing, triton):
    """With the real control plane, and a real load of the model."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(predict, missing.client(), headers=LONG) for _ in range(4)]
        wait_until(lambda: WakeWish.objects.count() == 1 and count_waiting(missing) == 4)

        wake.answer_wishes()
        replica = Replica.objects.get(version=missing.version)
        wake.answer_wishes()
        assert Replica.objects.count() == 1
        triton.load(Interface.parse(INTERFACE), replica.pk)
        Replica.objects.filter(pk=replica.pk).update(state="ready", changed_at=timezone.now())
        answers = [one.result(90) for one in waiting]

    assert {one.status_code for one in answers} == {201}
    assert all(int(one.headers["x-cold-start-ms"]) > 0 for one in answers)
    check_books(missing, [one.json()["id"] for one in answers])


def test_a_version_that_a_node_is_loading_is_waited_for(missing):
    missing.add_replica(REPLICA_IDS[1])
    Replica.objects.update(state="loading")
    assert problem_of(predict(missing.client(), headers=SHORT)) == (503, "model_waking")

    # Not once that node is silent: it is there still, and nothing says that it will come.
    Node.objects.update(last_seen_at=timezone.now() - timedelta(seconds=16))
    assert problem_of(predict(missing.client(), headers=LONG)) == (503, "model_not_ready")


@pytest.mark.parametrize(
    "change",
    [
        {"triton_ready": False},
        {"drain_requested_at": timezone.now()},
        {"revoked_at": timezone.now()},
        {"last_seen_at": None},
    ],
)
def test_where_no_node_could_take_it_nobody_waits(missing, change):
    Node.objects.update(**change)

    response = predict(missing.client(), headers=LONG)

    assert problem_of(response) == (503, "model_not_ready")
    assert WakeWish.objects.count() == 0
    check_untouched(missing)


@pytest.mark.parametrize(("minutes_ago", "code"), [(59, "model_not_ready"), (61, "model_waking")])
def test_a_version_that_has_just_failed_to_load_is_not_waited_for(missing, minutes_ago, code):
    missing.add_replica(REPLICA_IDS[1], deployment=Deployment.objects.get())
    Replica.objects.update(
        state="failed", changed_at=timezone.now() - timedelta(minutes=minutes_ago)
    )

    assert problem_of(predict(missing.client(), headers=SHORT)) == (503, code)


def test_who_cannot_pay_wakes_nothing(cold):
    poor = APIKeyFactory(account=AccountFactory(slug="poor"))

    response = predict(cold.client(poor.text), headers=LONG)

    assert problem_of(response) == (402, "insufficient_credit")
    assert WakeWish.objects.count() == 0
    # Control: who can does.
    assert problem_of(predict(cold.client(), headers=SHORT)) == (503, "model_waking")
    assert WakeWish.objects.count() == 1


def test_a_version_that_is_stopped_while_it_wakes_is_waited_for_no_longer(cold):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(predict, cold.client(), headers=LONG)
        wait_until(lambda: count_waiting(cold) == 1)

        deployments.stop_deployment(deployment_id=Deployment.objects.get().pk)

        assert problem_of(waiting.result(30)) == (503, "model_not_ready")
    check_untouched(cold)


def test_a_client_that_leaves_gives_its_place_back(cold):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{cold.url}/v1/models/maker/echo/predictions",
            json={"input": {"x": [1, 2, 3, 4]}},
            headers={"Authorization": f"Bearer {cold.key.text}"} | LONG,
            timeout=2,
        )

    wait_until(lambda: count_waiting(cold) == 0)
    check_untouched(cold)


def test_so_many_may_wait_and_one_more_may_not(cold):
    cold.fund(WAKE_WAITING_PER_VERSION_MAX * PRICE_NANOS)
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {cold.key.text}"} | LONG
    body = {"input": {"x": [1, 2, 3, 4]}}
    with (
        httpx.Client(base_url=cold.url, headers=headers, timeout=90, limits=limits) as client,
        concurrent.futures.ThreadPoolExecutor(WAKE_WAITING_PER_VERSION_MAX) as pool,
    ):

        def call(_: int = 0) -> httpx.Response:
            return client.post("/v1/models/maker/echo/predictions", json=body)

        waiting = [pool.submit(call, one) for one in range(WAKE_WAITING_PER_VERSION_MAX)]
        wait_until(lambda: count_waiting(cold) == WAKE_WAITING_PER_VERSION_MAX)

        # One past the limit.
        refused = call()
        assert problem_of(refused) == (503, "wake_queue_full")
        assert refused.headers["retry-after"] == "7"

        # One load for all of them; and all that waited at the limit are answered.
        assert WakeWish.objects.count() == 1
        come_up(cold)
        answers = [one.result(90) for one in waiting]
    assert {one.status_code for one in answers} == {201}
    check_books(cold, [one.json()["id"] for one in answers])


def test_asking_whether_it_is_ready_is_told_the_truth_and_wakes_nothing(cold):
    client = cold.client()

    assert client.get("/v2/models/maker/echo/ready").status_code == 503
    assert WakeWish.objects.count() == 0

    come_up(cold)

    def is_ready() -> None:
        assert client.get("/v2/models/maker/echo/ready").status_code == 200

    eventually(is_ready)


def test_a_stream_wakes_as_well(teller):
    version = ModelVersion.objects.get(model__name="teller")
    put_to_sleep(version)
    client = teller.client()

    response, _ = stream(client, headers=SHORT)
    assert problem_of(response) == (503, "model_waking")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream, client, headers=LONG)
        wait_until(lambda: count_waiting(teller) == 1)
        teller.add_replica(LANGUAGE_REPLICA_IDS["teller"], version=version)
        answer, events = waiting.result(60)
    assert answer.status_code == 200, answer.text
    assert events[-1][0] == "done"
    assert int(answer.headers["x-cold-start-ms"]) >= 0


def test_openai_and_the_open_inference_protocol_say_it_in_their_words(language):
    for name in ("vectors", "writer"):
        put_to_sleep(ModelVersion.objects.get(model__name=name))
    client = language.client()

    embedding = client.post(
        "/openai/v1/embeddings", json={"model": "maker/vectors", "input": "a"}, headers=SHORT
    )
    chat = client.post(
        "/openai/v1/chat/completions",
        json={"model": "maker/writer", "messages": [{"role": "user", "content": "a"}]},
        headers=SHORT,
    )

    for response in (embedding, chat):
        assert response.status_code == 503, response.text
        assert response.json()["error"]["code"] == "model_waking"
        assert response.headers["retry-after"] == "7"
    check_untouched(language)


def test_use_is_noted_and_not_for_each_prediction(shop):
    Deployment.objects.create(
        version=shop.version, last_wanted_at=timezone.now() - timedelta(hours=1)
    )
    began_at = timezone.now()

    assert predict(shop.client()).status_code == 201
    wait_until(lambda: Deployment.objects.get().last_wanted_at >= began_at - timedelta(seconds=5))

    noted_at = Deployment.objects.get().last_wanted_at
    for _ in range(3):
        assert predict(shop.client()).status_code == 201
    assert Deployment.objects.get().last_wanted_at == noted_at


def _require_status(client: httpx.Client, public_id: str, status: str) -> None:
    assert client.get(f"/v1/predictions/{public_id}").json()["status"] == status


# --- What a job's progress says meanwhile ---


def submit_job(client: httpx.Client) -> dict:
    response = predict(client, headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.text
    return response.json()


def test_the_stages_of_a_load_are_told_to_who_waits(cold):
    """As its node reports them: percent of the bytes while it fetches, no price, a guess."""
    Deployment.objects.update(cold_start_ms=20_000)
    client = cold.client()
    made = submit_job(client)
    told = [made["progress"]]
    assert told[0]["stage"] == "waking"
    assert told[0]["eta_s"] == pytest.approx(20, abs=2)
    replica = cold.add_replica(REPLICA_IDS[1])
    watcher = Watcher(client, made["id"])
    for state, progress, stage, percent in (
        ("assigned", 0, "waking", None),
        ("fetching", 0.416, "fetching", 41),
        ("starting", 0, "preparing", None),
        ("decrypting", 1, "decrypting", 100),
        ("validating", 0, "validating", None),
        ("loading", 0.5, "loading", 50),
        ("warming", 0, "warming", None),
        ("ready", 1, "queued", None),
    ):
        Replica.objects.filter(pk=replica.pk).update(state=state, progress=progress)
        shown = client.get(f"/v1/predictions/{made['id']}").json()
        assert shown["progress"]["stage"] == stage
        assert shown["progress"].get("percent") == percent
        assert shown["progress"]["position"] == 1
        assert shown["metrics"]["cost_nano_usd"] == 0
        while watcher.next("status").document["progress"]["stage"] != stage:
            pass
    check_nothing_is_paid()
    client.post(f"/v1/predictions/{made['id']}/cancel")
    watcher.finish()


def test_the_replica_that_is_furthest_is_the_one_that_counts(cold):
    client = cold.client()
    made = submit_job(client)
    cold.add_replica(REPLICA_IDS[0])
    cold.add_replica(REPLICA_IDS[1])
    other = Replica.objects.get(pk=REPLICA_IDS[1])
    Replica.objects.update(state="fetching", progress=0.9)
    Replica.objects.filter(pk=other.pk).update(state="loading", progress=0.1)

    def show() -> dict:
        return client.get(f"/v1/predictions/{made['id']}").json()["progress"]

    assert (show()["stage"], show()["percent"]) == ("loading", 10)
    # What is not wanted, what only scans and whose node was put out: none of them serves it.
    for change in ({"wanted": False}, {"purpose": "scan"}, {"state": "failed"}):
        Replica.objects.filter(pk=other.pk).update(**change)
        assert (show()["stage"], show()["percent"]) == ("fetching", 90)
        Replica.objects.filter(pk=other.pk).update(wanted=True, purpose="serve", state="loading")
    Node.objects.update(revoked_at=timezone.now())
    assert show()["stage"] == "waking"


def check_nothing_is_paid() -> None:
    assert not UsageEvent.objects.exists()
