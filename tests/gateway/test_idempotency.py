"""A retry with the same key gets the first prediction, and pays once."""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta

import pytest
from django.utils import timezone

from inference.models import APIRequest, Prediction
from marketplace.core.ids import from_public
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    X,
    check_books,
    check_nothing_booked,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

KEY = {"Idempotency-Key": "order-1"}


def test_retry_is_answered_with_the_first_prediction(shop, client):
    first = predict(client, headers=KEY, note="once")
    again = predict(client, headers=KEY, note="once")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["inference-id"] == first.headers["inference-id"]
    assert again.headers["x-cost-nano-usd"] == str(PRICE_NANOS)
    one, two = first.json(), again.json()
    for document in (one, two):
        document.pop("started_at")  # Derived from the stored duration.
    assert two["metrics"].pop("predict_time") == pytest.approx(
        one["metrics"].pop("predict_time"), abs=1e-5
    )
    assert one == two
    check_books(shop, [one["id"]])
    claim = APIRequest.objects.get()
    assert claim.prediction_id == from_public(one["id"])
    assert claim.completed_at is not None


def test_quotes_around_the_key_do_not_count(shop, client):
    first = predict(client, headers={"Idempotency-Key": '"order-1"'}).json()
    again = predict(client, headers=KEY).json()

    assert first["id"] == again["id"]


def test_other_body_is_a_mismatch(shop, client):
    first = predict(client, headers=KEY)
    other = predict(client, headers=KEY, note="different")

    assert problem_of(other) == (422, "idempotency_mismatch")
    assert other.headers["x-should-retry"] == "false"
    check_books(shop, [first.json()["id"]])


def test_other_address_is_a_mismatch(shop, client):
    predict(client, headers=KEY)
    body = {"input": {"x": X}, "version": "maker/echo"}

    assert problem_of(client.post("/v1/predictions", json=body, headers=KEY)) == (
        422,
        "idempotency_mismatch",
    )


def test_keys_belong_to_the_account(shop, client):
    other = APIKeyFactory(account=shop.creator, mode="test")

    first = predict(client, headers=KEY).json()
    foreign = predict(shop.client(other.text), headers=KEY)
    same_account = predict(shop.client(APIKeyFactory(account=shop.consumer).text), headers=KEY)

    assert foreign.status_code == 201
    assert foreign.json()["id"] != first["id"]
    assert same_account.json()["id"] == first["id"]


def test_running_request_is_in_flight_for_its_retry(shop, client):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(predict, client, headers=KEY, wait_s=1)
        eventually(check_claimed)
        retry = predict(client, headers=KEY, wait_s=1)

        assert problem_of(retry) == (409, "idempotency_in_flight")
        assert 1 <= int(retry.headers["retry-after"]) <= 2
        public_id = first.result().json()["id"]
    assert predict(client, headers=KEY, wait_s=1).json()["id"] == public_id
    check_books(shop, [public_id])


def check_claimed():
    assert APIRequest.objects.count() == 1


def test_many_at_once_run_once(shop, client):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: predict(client, headers=KEY, wait_s=0.2), range(12)))

    statuses = {one.status_code for one in responses}
    assert statuses <= {200, 201, 409}
    ids = {one.json()["id"] for one in responses if one.status_code != 409}
    assert [one.status_code for one in responses].count(201) == 1
    check_books(shop, list(ids))


def test_dead_gateway_leaves_a_claim_that_a_retry_takes_over(shop, client):
    """The first run never ended: its claim stands, without a prediction behind it."""
    predict(client, headers=KEY)
    first = APIRequest.objects.get()
    APIRequest.objects.update(
        completed_at=None, claimed_until=timezone.now() + timedelta(seconds=30)
    )
    assert problem_of(predict(client, headers=KEY)) == (409, "idempotency_in_flight")

    APIRequest.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    mismatch = predict(client, headers=KEY, note="different")
    taken_over = predict(client, headers=KEY)

    assert problem_of(mismatch) == (422, "idempotency_mismatch")
    assert taken_over.status_code == 201
    assert from_public(taken_over.json()["id"]) != first.prediction_id
    assert APIRequest.objects.get().prediction_id == from_public(taken_over.json()["id"])


def test_run_whose_claim_was_taken_over_books_nothing(shop, client):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(predict, client, headers=KEY, wait_s=1)
        eventually(check_claimed)
        # As if the first gateway had been silent for too long.
        APIRequest.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
        winner = predict(client, headers=KEY, wait_s=1)
        loser = slow.result()

    assert winner.status_code == 201
    assert problem_of(loser) == (409, "idempotency_in_flight")
    check_books(shop, [winner.json()["id"]])


def test_failed_run_frees_the_key(shop, client):
    failed = predict(client, headers=KEY, mode="fail")
    assert failed.status_code == 500
    assert APIRequest.objects.count() == 0

    again = predict(client, headers=KEY, mode="ok")

    assert again.status_code == 201
    check_books(shop, [again.json()["id"]])


def test_refused_request_leaves_no_claim(shop, client):
    poor = shop.client(APIKeyFactory().text)

    assert problem_of(predict(poor, headers=KEY)) == (402, "insufficient_credit")
    assert problem_of(predict(client, headers=KEY, x=[1])) == (422, "validation")
    assert APIRequest.objects.count() == 0
    check_nothing_booked(shop)


def test_expired_key_is_free_again(shop, client):
    first = predict(client, headers=KEY).json()["id"]
    APIRequest.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=-60))
    assert predict(client, headers=KEY).json()["id"] == first

    APIRequest.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    later = predict(client, headers=KEY, note="another request")

    assert later.status_code == 201
    check_books(shop, [first, later.json()["id"]])


def test_retry_needs_neither_replica_nor_credit(shop, client):
    first = predict(client, headers=KEY).json()["id"]
    shop.fund(-9 * PRICE_NANOS)
    shop.model.suspended_at = timezone.now()
    shop.model.save()

    assert predict(client, headers=KEY).json()["id"] == first


def test_an_output_that_is_not_kept_is_not_answered_as_if_it_were(shop, client):
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}]}
    path = "/v2/models/maker/echo/infer"
    assert client.post(path, json=body, headers=KEY).status_code == 200
    predict(client, headers={"Idempotency-Key": "order-2"})
    Prediction.objects.update(output=None)

    tensors = client.post(path, json=body, headers=KEY)
    native = predict(client, headers={"Idempotency-Key": "order-2"})

    assert tensors.status_code == 410
    assert "not kept" in tensors.json()["error"]
    assert native.status_code == 200
    assert (native.json()["output"], native.json()["data_removed"]) == (None, True)
    assert Prediction.objects.count() == 2


@pytest.mark.parametrize("_length", [255, 256])
def test_length_of_a_key_is_limited(shop, client, _length):
    response = predict(client, headers={"Idempotency-Key": "k" * _length})

    if _length == 255:
        assert response.status_code == 201
    else:
        assert problem_of(response) == (400, "bad_request")
        check_nothing_booked(shop)


@pytest.mark.parametrize("_key", ["", '""', "tab\tinside", b"\xc3\xa9"])
def test_key_that_is_none_is_refused(shop, client, _key):
    assert problem_of(predict(client, headers={"Idempotency-Key": _key})) == (400, "bad_request")
    assert APIRequest.objects.count() == 0


def test_key_works_for_tensors_too(shop, client):
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}], "id": "m"}
    path = "/v2/models/maker/echo/infer"

    first = client.post(path, json=body, headers=KEY)
    again = client.post(path, json=body, headers=KEY)
    other = client.post(path, json=body | {"id": "n"}, headers=KEY)

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert Prediction.objects.count() == 1
    check_books(shop, [first.headers["inference-id"]])


def test_output_that_cannot_be_stored_costs_nothing(shop, client):
    keyed = predict(client, headers=KEY, note="a\x00b")

    assert problem_of(keyed) == (500, "output_invalid")
    check_nothing_booked(shop)
    plain = predict(client, note="a\x00b")
    assert plain.json()["output"]["echo"] == "a\x00b"
    check_books(shop, [plain.json()["id"]])


def test_output_is_kept_only_for_keyed_requests(shop, client):
    keyed = predict(client, headers=KEY).json()
    plain = predict(client).json()

    shown = client.get(f"/v1/predictions/{keyed['id']}").json()
    assert (shown["output"], shown["data_removed"]) == (keyed["output"], False)
    shown = client.get(f"/v1/predictions/{plain['id']}").json()
    assert (shown["output"], shown["data_removed"], shown["input"]) == (None, True, {})
    assert shown["status"] == "succeeded"
