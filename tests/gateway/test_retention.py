"""An account that keeps nothing: a canary goes through everything and is found nowhere after."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
from django.db import connection

from inference.gateway.config import REPEATS_MAX
from inference.models import Job, JobInput, Prediction
from inference.services import prediction as predictions
from inference.services.job import JobNotDeadError, archive_jobs, replay_job
from marketplace.core.clock import utc_now
from marketplace.core.ids import from_public
from marketplace.selectors.access import Actor
from tests import servers
from tests.gateway.conftest import PRICE_NANOS, X, check_books
from tests.gateway.processes import eventually
from tests.gateway.test_jobs import ASYNC, pull, submit, wait_for  # noqa: F401 - a fixture
from tests.inference.canary import find_canary
from tests.inference.storing import use_store

pytestmark = pytest.mark.django_db(transaction=True)
CANARY = "canary-zq7f3kx1"


@pytest.fixture(autouse=True)
def store(settings, tmp_path):
    return use_store(settings, tmp_path)


@pytest.fixture
def look(tmp_path, gateway):
    return lambda: find_canary(CANARY, [tmp_path, gateway.log_path.parent])


def keep_for(shop, days):
    shop.consumer.retention_days = days
    shop.consumer.save()


def run(client, headers=None):
    made = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X, "note": CANARY}},
        headers=headers or {},
    )
    assert made.status_code == 201, made.text
    assert made.json()["output"]["echo"] == CANARY
    return made.json()


def age_all(by):
    """As if all that is over had been over for so long."""
    for row in Prediction.objects.all():
        Prediction.objects.filter(pk=row.pk).update(
            created_at=row.created_at - by, completed_at=row.completed_at - by
        )


def send_everything(client):
    """What a consumer can send, synchronous and later, with keys and without."""
    run(client)
    run(client, {"Idempotency-Key": "one"})
    run(client, {"x-stainless-retry-count": "0"})
    return submit(client, note=CANARY)


def test_nothing_is_kept_anywhere(shop, client, pull, look):  # noqa: F811
    keep_for(shop, 0)
    made = send_everything(client)
    # The input of what waits is where it has to be, and nowhere else.
    assert look() == ["inference_jobinput"]

    pull()
    done = wait_for(client, made)
    assert done["output"]["echo"] == CANARY
    assert done["input"] == {}
    # Until it is fetched, or the time for that is over, and with it the input is gone.
    assert look() == ["inference_prediction"]
    predictions.forget_predictions()
    assert look() == ["inference_prediction"]

    age_all(predictions.COLLECTED_WITHIN)
    predictions.forget_predictions()
    archive_jobs()
    assert look() == []
    later = client.get(f"/v1/predictions/{made['id']}").json()
    assert (later["output"], later["data_removed"]) == (None, True)
    # What was run and paid for is known all the same.
    assert Prediction.objects.count() == 4


def test_control_what_is_kept_is_found(shop, client, pull, look):  # noqa: F811
    made = send_everything(client)
    pull()
    wait_for(client, made)
    assert look() == ["inference_prediction"]


def test_control_without_the_last_word_it_is_found(shop, client, pull, look):  # noqa: F811
    keep_for(shop, 0)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE inference_prediction DISABLE TRIGGER inference_keep_nothing")
    try:
        made = submit(client, note=CANARY)
        pull()
        wait_for(client, made)
        row = Prediction.objects.get(pk=from_public(made["id"]))
        assert row.input["note"] == CANARY
        Prediction.objects.update(output=None)
        assert look() == ["inference_prediction"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE inference_prediction ENABLE TRIGGER inference_keep_nothing")


def test_control_redis_and_files_are_looked_through(look, tmp_path):
    with redis.Redis.from_url(servers.provide().redis_url) as client:
        client.xadd("test:canary", {"output": f"a {CANARY} b"})
        (tmp_path / "left").write_text(f"a {CANARY} b")
        assert look() == ["test:canary", str(tmp_path / "left")]
        client.delete("test:canary")
    (tmp_path / "left").unlink()
    assert look() == []


@pytest.mark.parametrize("days", [0, 1])
def test_what_dies_keeps_its_input_only_where_something_is_kept(shop, client, days):
    keep_for(shop, days)
    made = submit(client, {"X-Strongroom-Retry": "never"}, note=CANARY)
    job_id = from_public(made["id"])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM inference_claim(%s, 0, ARRAY[%s]::uuid[], 60)",
            [shop.node.pk, shop.version.pk],
        )
        assert cursor.fetchone()
        cursor.execute("SELECT inference_hand_back(%s, %s, 1, 'gone', '')", [shop.node.pk, job_id])
        assert cursor.fetchone() == ("dead",)
    assert JobInput.objects.filter(pk=job_id).exists() == bool(days)
    if not days:
        with pytest.raises(JobNotDeadError):
            replay_job(actor=Actor(), job_id=job_id)
        assert Job.objects.get(pk=job_id).state == "dead"


def test_a_keyed_retry_runs_again_and_is_paid_for_once(shop, client, look):
    keep_for(shop, 0)
    first = run(client, {"Idempotency-Key": "one"})
    assert first["metrics"]["cost_nano_usd"] == PRICE_NANOS
    for _ in range(REPEATS_MAX):
        again = run(client, {"Idempotency-Key": "one"})
        assert again["id"] == first["id"]
        assert again["metrics"]["cost_nano_usd"] == 0
    # Many answers for one price are not given away.
    body = {"input": {"x": X, "note": CANARY}}
    path = "/v1/models/maker/echo/predictions"
    last = client.post(path, json=body, headers={"Idempotency-Key": "one"})
    assert (last.json()["id"], last.json()["data_removed"]) == (first["id"], True)
    other = client.post(path, json={"input": {"x": X}}, headers={"Idempotency-Key": "one"})
    assert other.status_code == 422
    check_books(shop, [first["id"]])
    assert look() == []


def test_a_keyed_retry_of_a_job_starts_no_other(shop, client):
    keep_for(shop, 0)
    headers = {"Idempotency-Key": "one"}
    made = submit(client, headers, note=CANARY)
    again = client.post(
        "/v1/models/maker/echo/predictions",
        json={"input": {"x": X, "note": CANARY}},
        headers=ASYNC | headers,
    )
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert Job.objects.count() == 1


def test_what_is_canceled_keeps_nothing(shop, client, look):
    keep_for(shop, 0)
    made = submit(client, note=CANARY)
    assert client.post(f"/v1/predictions/{made['id']}/cancel").status_code == 200
    assert look() == []


def test_a_gateway_hears_of_it(shop, client, look):
    run(client, {"Idempotency-Key": "before"})
    assert look() == ["inference_prediction"]
    keep_for(shop, 0)
    Prediction.objects.update(output=None, input=None)

    def check():
        run(client)
        run(client, {"Idempotency-Key": f"after {utc_now()}"})
        assert look() == []

    eventually(check, timeout_s=30)


def test_contents_are_kept_for_as_long_as_their_account_says(shop, client):
    run(client, {"Idempotency-Key": "one"})
    row = Prediction.objects.get()
    for days in (1, 30):
        keep_for(shop, days)
        Prediction.objects.update(
            created_at=utc_now() - timedelta(days=days) + timedelta(minutes=1)
        )
        predictions.forget_predictions()
        row.refresh_from_db()
        assert row.output is not None
    Prediction.objects.update(created_at=utc_now() - timedelta(days=30))
    assert predictions.forget_predictions() == 1
    row.refresh_from_db()
    assert row.output is None
