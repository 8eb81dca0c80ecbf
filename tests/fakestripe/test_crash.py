from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import requests
import stripe

from tests.fakestripe.process import SECRET_KEY, FakeStripeProcess, Receiver


@pytest.fixture
def mortal(tmp_path, receiver) -> Iterator[FakeStripeProcess]:
    """A stand-in of its own that a test may kill."""
    receiver.clear()
    process = FakeStripeProcess(tmp_path, webhook_url=receiver.url)
    process.start()
    yield process
    process.kill()


def test_it_starts_fast_once_the_description_is_converted(mortal):
    mortal.kill()

    assert mortal.start() < 2


def test_it_ends_when_asked_to(tmp_path):
    process = FakeStripeProcess(tmp_path)
    process.start()

    assert process.stop() == 0


def test_killing_it_loses_nothing_that_was_acknowledged(mortal):
    acknowledged: list[str] = []
    failed = threading.Event()

    def create_until_it_dies(worker: int) -> None:
        number = 0
        while True:
            number += 1
            try:
                answer = mortal.request(
                    "POST",
                    "/v1/customers",
                    {"name": f"{worker}-{number}"},
                    Idempotency_Key=f"k{worker}-{number}",
                )
            except requests.ConnectionError:
                failed.set()
                return
            acknowledged.append(answer.json()["id"])

    threads = [threading.Thread(target=create_until_it_dies, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 40:
        assert not failed.is_set()
    mortal.kill()
    for thread in threads:
        thread.join()
    mortal.start()

    state = mortal.state()
    kept = {item["id"] for item in state["objects"]["customer"]}
    assert set(acknowledged) - kept == set()
    # An object without its event would be half a transaction.
    told = {item["data"]["object"]["id"] for item in state["objects"]["event"]}
    assert kept == told


def test_what_was_asked_before_the_crash_is_answered_the_same_after_it(mortal):
    mortal.order("faults", kind="drop_after_effect")
    with pytest.raises(requests.ConnectionError):
        mortal.request("POST", "/v1/customers", {"name": "a"}, Idempotency_Key="k1")
    mortal.kill()
    mortal.start()

    again = mortal.request("POST", "/v1/customers", {"name": "a"}, Idempotency_Key="k1")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert [item["id"] for item in mortal.state()["objects"]["customer"]] == [again.json()["id"]]


def test_a_payment_survives_between_the_page_and_the_shop(mortal, receiver: Receiver):
    client = stripe.StripeClient(SECRET_KEY, base_addresses={"api": mortal.url})
    session = client.v1.checkout.sessions.create(
        params={
            "mode": "payment",
            "line_items": [
                {
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": 500,
                        "product_data": {"name": "Credit"},
                    }
                }
            ],
            "success_url": "https://shop.example.com/",
        }
    )
    mortal.order("webhooks/hold")
    mortal.order(f"checkout/{session.id}/pay")
    mortal.kill()
    mortal.start()

    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"
    assert receiver.deliveries == []
    mortal.order("webhooks/release")
    assert len(receiver.deliveries) == 5
