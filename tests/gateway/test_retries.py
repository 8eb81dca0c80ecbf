"""Retries without a key, by client libraries that count their attempts: paid once."""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta

import pytest
from django.utils import timezone

from inference.gateway.config import RETRY_WINDOW_S
from inference.gateway.idempotency import IMPLIED_PREFIX, read_retry_count
from inference.models import APIRequest, Prediction
from inference.services import prediction as predictions
from tests.factories import APIKeyFactory
from tests.gateway.conftest import X, check_books, predict, problem_of
from tests.gateway.processes import eventually


def counted(count: object) -> dict[str, str]:
    return {"X-Stainless-Retry-Count": str(count)}


@pytest.mark.parametrize(
    ("_text", "_count"),
    [("0", 0), ("2", 2), ("9999", 9999), ("10000", None), ("-1", None), ("", None), ("x", None)],
)
def test_count_is_read_and_anything_else_is_none(_text, _count):
    assert read_retry_count({"x-stainless-retry-count": _text}) == _count
    assert read_retry_count({}) is None


def test_cleaner_and_gateway_mean_the_same_keys():
    assert predictions.IMPLIED_PREFIX == IMPLIED_PREFIX
    assert timedelta(seconds=RETRY_WINDOW_S) < predictions.RETRY_RETENTION


@pytest.mark.django_db(transaction=True)
def test_counted_retry_gets_the_first_answer_and_pays_once(shop, client):
    first = predict(client, headers=counted(0))
    retries = [predict(client, headers=counted(count)) for count in (1, 2)]

    assert first.status_code == 201
    for one in retries:
        assert one.headers.get("idempotent-replayed") == "true"
        assert one.json()["id"] == first.json()["id"]
        assert one.json()["output"] == first.json()["output"]
    check_books(shop, [first.json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_same_request_twice_on_purpose_is_run_and_charged_twice(shop, client):
    answers = [predict(client, headers=counted(0)) for _ in range(2)]
    retry = predict(client, headers=counted(1))

    assert [one.status_code for one in answers] == [201, 201]
    assert retry.json()["id"] == answers[1].json()["id"]
    check_books(shop, [one.json()["id"] for one in answers])


@pytest.mark.django_db(transaction=True)
def test_retry_of_nothing_runs_and_is_the_first_for_the_next_one(shop, client):
    first = predict(client, headers=counted(1))
    second = predict(client, headers=counted(2))

    assert (first.status_code, second.json()["id"]) == (201, first.json()["id"])
    check_books(shop, [first.json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_only_the_same_request_of_the_same_key_is_a_retry(shop, client):
    other_key = shop.client(APIKeyFactory(account=shop.consumer).text)
    body = {"version": "maker/echo", "input": {"x": X}}
    answers = [
        predict(client, headers=counted(0)),
        predict(client, headers=counted(1), note="else"),
        client.post("/v1/predictions", json=body, headers=counted(1)),
        predict(other_key, headers=counted(1)),
        predict(client, headers=counted("many")),
        predict(client),
    ]

    assert [one.status_code for one in answers] == [201] * len(answers)
    check_books(shop, [one.json()["id"] for one in answers])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_late_s", [-5, 1])
def test_retry_comes_within_a_minute_or_is_a_new_one(shop, client, _late_s):
    first = predict(client, headers=counted(0)).json()["id"]
    APIRequest.objects.update(
        completed_at=timezone.now() - timedelta(seconds=RETRY_WINDOW_S + _late_s)
    )
    second = predict(client, headers=counted(1)).json()["id"]

    assert (second == first) is (_late_s < 0)
    check_books(shop, sorted({first, second}))


@pytest.mark.django_db(transaction=True)
def test_key_of_the_caller_goes_before_the_count(shop, client):
    first = predict(client, headers=counted(0))
    keyed = predict(client, headers={**counted(1), "Idempotency-Key": "k"})

    assert keyed.json()["id"] != first.json()["id"]
    check_books(shop, [first.json()["id"], keyed.json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_retry_of_what_still_runs_is_told_to_come_back(shop, client):
    def check_claimed():
        assert APIRequest.objects.count() == 1

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(predict, client, headers=counted(0), wait_s=2)
        eventually(check_claimed)
        early = predict(client, headers=counted(1), wait_s=2)
        public_id = first.result().json()["id"]
    late = predict(client, headers=counted(2), wait_s=2)

    assert problem_of(early) == (409, "idempotency_in_flight")
    assert early.headers["retry-after"] == "1"
    assert late.json()["id"] == public_id
    check_books(shop, [public_id])


@pytest.mark.django_db(transaction=True)
def test_retry_after_a_failure_runs_again(shop, client):
    assert predict(client, headers=counted(0), mode="fail").status_code == 500
    assert APIRequest.objects.count() == 0
    assert predict(client, headers=counted(1), mode="fail").status_code == 500

    check_books(shop, [])


@pytest.mark.django_db(transaction=True)
def test_output_that_cannot_be_kept_is_answered_all_the_same(shop, client):
    first = predict(client, headers=counted(0), note="a\x00b")

    assert first.json()["output"]["echo"] == "a\x00b"
    check_books(shop, [first.json()["id"]])


@pytest.mark.django_db(transaction=True)
def test_output_is_forgotten_after_minutes_and_the_callers_own_keys_are_not(shop, client):
    predict(client, headers=counted(0))
    predict(client, headers={"Idempotency-Key": "k"})
    fresh = predict(client, headers=counted(0), note="fresh").json()["id"]
    assert predictions.forget_predictions() == 0
    old = timezone.now() - predictions.RETRY_RETENTION - timedelta(seconds=1)
    requests = APIRequest.objects.order_by("pk")
    for one in requests[:2]:
        APIRequest.objects.filter(pk=one.pk).update(created_at=old, completed_at=old)

    assert predictions.forget_predictions() == 1
    assert APIRequest.objects.filter(idempotency_key="k").exists()
    assert Prediction.objects.filter(output__isnull=False).count() == 2
    assert predict(client, headers=counted(1), note="fresh").json()["id"] == fresh
