from __future__ import annotations

import time

import pytest
import requests
import stripe

from tests.fakestripe.process import SECRET_KEY


def create(fake, **headers):
    return fake.request("POST", "/v1/customers", {"name": "a"}, **headers)


def test_a_dropped_answer_had_its_effect(fake):
    fake.order("faults", kind="drop_after_effect", path="/v1/customers")
    with pytest.raises(requests.ConnectionError, match="without response"):
        create(fake, Idempotency_Key="k1")
    assert fake.count("customer") == 1

    again = create(fake, Idempotency_Key="k1")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert fake.count("customer") == 1


def test_a_reset_connection_had_no_effect(fake):
    fake.order("faults", kind="reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        create(fake)

    assert fake.count("customer") == 0
    assert create(fake).status_code == 200


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate_limit", 429, "rate_limit"),
        ("lock_timeout", 429, "lock_timeout"),
        ("conflict", 409, "idempotency_key_in_use"),
        ("unavailable", 503, None),
        ("error", 500, None),
    ],
)
def test_a_refusal_before_the_effect_leaves_the_key_free(fake, kind, status, code):
    fake.order("faults", kind=kind)
    refused = create(fake, Idempotency_Key="k1")
    assert (refused.status_code, refused.json()["error"].get("code")) == (status, code)
    assert fake.count("customer") == 0

    accepted = create(fake, Idempotency_Key="k1")

    assert accepted.status_code == 200
    assert "Idempotent-Replayed" not in accepted.headers


def test_who_stops_waiting_has_caused_the_effect_all_the_same(fake):
    fake.order("faults", kind="delay", delay_s=0.6)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{fake.url}/v1/customers",
            data={"name": "a"},
            headers={"Authorization": f"Bearer {SECRET_KEY}"},
            timeout=0.2,
        )
    time.sleep(0.8)

    assert fake.count("customer") == 1


def test_faults_are_for_their_method_and_address_and_number(fake, client):
    fake.order("faults", kind="rate_limit", method="POST", path="/v1/customers", times=2)

    assert fake.request("GET", "/v1/customers").status_code == 200
    assert fake.request("GET", "/v1/balance").status_code == 200
    assert [create(fake).status_code for _ in range(3)] == [429, 429, 200]


def test_faults_can_be_taken_back(fake):
    fake.order("faults", kind="reset", times=100)
    assert requests.delete(f"{fake.url}/_test/faults", timeout=10).ok

    assert create(fake).status_code == 200


def test_the_sdk_repeats_a_lost_answer_under_the_same_key(fake):
    fake.order("faults", kind="drop_after_effect", times=2)
    client = stripe.StripeClient(
        SECRET_KEY, base_addresses={"api": fake.url}, max_network_retries=2
    )
    created = client.v1.customers.create(params={"name": "a"}, options={"idempotency_key": "k1"})

    assert [item["id"] for item in fake.state()["objects"]["customer"]] == [created.id]
