from __future__ import annotations

import threading

import pytest
import stripe

from tests.fakestripe.process import wait_until

EMAIL = "email=a%40example.com"


def create(fake, key: str, body: str = EMAIL):
    return fake.request(
        "POST",
        "/v1/customers",
        body,
        Idempotency_Key=key,
        Content_Type="application/x-www-form-urlencoded",
    )


def test_the_first_answer_to_a_key_is_repeated(fake):
    first = create(fake, "k1")
    second = create(fake, "k1")

    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Original-Request"] == first.headers["Request-Id"]
    assert second.headers["Idempotency-Key"] == "k1"
    assert fake.state()["counts"] == {"customer": 1, "event": 1}


def test_other_parameters_under_one_key_are_refused(fake):
    create(fake, "k1")
    other = create(fake, "k1", "email=b%40example.com")

    assert other.status_code == 400
    assert other.json()["error"]["type"] == "idempotency_error"
    assert "Try using a key other than 'k1'" in other.json()["error"]["message"]
    assert fake.count("customer") == 1


def test_the_order_of_parameters_does_not_matter(fake):
    first = create(fake, "k1", "name=Ada&email=a%40example.com")
    second = create(fake, "k1", "email=a%40example.com&name=Ada")

    assert second.json() == first.json()


def test_another_address_under_one_key_is_refused(fake):
    customer_id = create(fake, "k1").json()["id"]
    other = fake.request(
        "POST", f"/v1/customers/{customer_id}", {"name": "Ada"}, Idempotency_Key="k1"
    )

    assert other.status_code == 400
    assert other.json()["error"]["type"] == "idempotency_error"
    assert "only be used for the same endpoint" in other.json()["error"]["message"]


def test_the_sdk_names_the_mistake(client):
    options = {"idempotency_key": "k1"}
    client.v1.customers.create(params={"name": "a"}, options=options)
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create(params={"name": "b"}, options=options)


def test_a_key_in_use_is_a_conflict(fake):
    fake.order("faults", kind="delay", path="/v1/customers", delay_s=0.5)
    slow: list = []
    thread = threading.Thread(target=lambda: slow.append(create(fake, "k1")))
    thread.start()
    wait_until(lambda: fake.state()["faults"] == [])
    meanwhile = create(fake, "k1")
    thread.join()
    afterwards = create(fake, "k1")

    assert meanwhile.status_code == 409
    assert meanwhile.json()["error"]["code"] == "idempotency_key_in_use"
    assert slow[0].status_code == 200
    assert afterwards.json() == slow[0].json()
    assert fake.count("customer") == 1


def test_refused_parameters_leave_the_key_free(fake):
    refused = create(fake, "k1", "bogus=1")
    accepted = create(fake, "k1")

    assert (refused.status_code, accepted.status_code) == (400, 200)


def test_a_refusal_of_the_work_itself_is_kept(fake, client, session_params):
    params = session_params | {"customer": "cus_later"}
    options = {"idempotency_key": "k1"}
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.checkout.sessions.create(params=params, options=options)
    assert caught.value.code == "resource_missing"
    assert caught.value.headers["Idempotent-Replayed"] == "true"
    assert fake.count("checkout.session") == 0


def test_a_500_after_the_effect_is_what_the_key_stands_for(fake):
    fake.order("faults", kind="error_after_effect", path="/v1/customers")
    first = create(fake, "k1")
    second = create(fake, "k1")

    assert (first.status_code, second.status_code) == (500, 500)
    assert first.headers["Stripe-Should-Retry"] == "false"
    assert second.headers["Idempotent-Replayed"] == "true"
    assert fake.count("customer") == 1


def test_keys_are_forgotten_after_a_day(fake):
    first = create(fake, "k1").json()["id"]
    fake.order("clock", offset_s=24 * 3_600 - 60)
    assert create(fake, "k1").json()["id"] == first

    fake.order("clock", offset_s=24 * 3_600 + 60)
    assert create(fake, "k1").json()["id"] != first
    assert fake.count("customer") == 2


def test_a_key_that_is_too_long_is_refused(fake):
    assert create(fake, "k" * 255).status_code == 200
    assert create(fake, "k" * 256).status_code == 400
    assert fake.count("customer") == 1


def test_reading_takes_no_notice_of_keys(fake):
    customer_id = create(fake, "k1").json()["id"]
    answer = fake.request("GET", f"/v1/customers/{customer_id}", Idempotency_Key="k1")

    assert answer.status_code == 200
    assert "Idempotency-Key" not in answer.headers
