from __future__ import annotations

import json
import time

import pytest
import requests
import stripe

from tests.fakestripe.process import WEBHOOK_SECRET, wait_until


def verify(delivery) -> None:
    stripe.WebhookSignature.verify_header(delivery.payload, delivery.signature, WEBHOOK_SECRET, 300)


def types(receiver) -> list[str]:
    return [json.loads(item.payload)["type"] for item in receiver.deliveries]


def undelivered(client) -> list[str]:
    rows = client.v1.events.list(params={"delivery_success": False}).data
    return [event.type for event in rows]


def test_events_arrive_signed_and_are_then_done(fake, client, receiver):
    created = client.v1.customers.create(params={"email": "a@example.com"})
    [delivery] = receiver.wait_for(1)
    verify(delivery)
    event = json.loads(delivery.payload)

    assert (event["type"], event["data"]["object"]["id"]) == ("customer.created", created.id)
    assert event["request"]["id"].startswith("req_")
    wait_until(lambda: undelivered(client) == [])
    assert client.v1.events.retrieve(event["id"]).pending_webhooks == 0


def test_what_was_not_taken_is_sent_again(client, receiver):
    receiver.statuses[:] = [500, 302]
    begin = time.monotonic()
    client.v1.customers.create(params={"name": "a"})
    receiver.wait_for(1)
    assert undelivered(client) == ["customer.created"]

    receiver.wait_for(3)

    assert time.monotonic() - begin >= 3  # After one second, then after two more.
    assert len({json.loads(item.payload)["id"] for item in receiver.deliveries}) == 1
    wait_until(lambda: undelivered(client) == [])


def test_copies_arrive_when_ordered(fake, client, receiver):
    fake.order("webhooks", behaviour="duplicate", copies=3, type="customer.*")
    client.v1.customers.create(params={"name": "a"})
    receiver.wait_for(3)
    client.v1.customers.create(params={"name": "b"})
    receiver.wait_for(4)
    time.sleep(0.2)

    assert types(receiver) == ["customer.created"] * 4


def test_a_rule_is_for_its_type_only(fake, client, receiver):
    fake.order("webhooks", behaviour="never", type="charge.*")
    client.v1.customers.create(params={"name": "a"})
    receiver.wait_for(1)

    assert len(fake.state()["webhooks"]) == 1


def test_a_withheld_event_is_only_found_by_asking(fake, client, receiver):
    fake.order("webhooks", behaviour="never")
    client.v1.customers.create(params={"name": "a"})
    client.v1.customers.create(params={"name": "b"})
    receiver.wait_for(1)
    wait_until(lambda: len(undelivered(client)) == 1)

    [event] = client.v1.events.list(params={"delivery_success": False}).data
    assert event.data.object.name == "a"
    told = client.v1.events.list(params={"delivery_success": True}).data
    assert [item.data.object.name for item in told] == ["b"]

    fake.order(f"events/{event.id}/send")
    receiver.wait_for(2)


def test_a_delay_is_kept(fake, client, receiver):
    fake.order("webhooks", behaviour="delay", delay_s=0.7)
    begin = time.monotonic()
    client.v1.customers.create(params={"name": "a"})
    receiver.wait_for(1)

    assert time.monotonic() - begin >= 0.7


@pytest.mark.parametrize(
    ("behaviour", "age_s"), [("old_timestamp", 3_600), ("future_timestamp", -86_400)]
)
def test_timestamps_are_shifted_and_still_signed(fake, client, receiver, behaviour, age_s):
    fake.order("webhooks", behaviour=behaviour)
    receiver.statuses[:] = [400]
    client.v1.customers.create(params={"name": "a"})
    bent, right = receiver.wait_for(2)

    stripe.WebhookSignature.verify_header(bent.payload, bent.signature, WEBHOOK_SECRET)
    timestamp = int(bent.signature.split(",")[0].removeprefix("t="))
    assert abs(time.time() - timestamp - age_s) < 10
    verify(right)


def test_a_wrong_secret_signs_once_and_then_the_right_one(fake, client, receiver):
    fake.order("webhooks", behaviour="wrong_secret")
    receiver.statuses[:] = [400]
    client.v1.customers.create(params={"name": "a"})
    bent, right = receiver.wait_for(2)

    with pytest.raises(stripe.SignatureVerificationError):
        verify(bent)
    verify(right)


def test_two_signatures_look_like_a_rotated_secret(fake, client, receiver):
    fake.order("webhooks", behaviour="two_signatures")
    client.v1.customers.create(params={"name": "a"})
    [delivery] = receiver.wait_for(1)

    assert delivery.signature.count("v1=") == 2
    verify(delivery)


def test_held_events_leave_in_the_order_of_the_seed(fake, client, receiver):
    def release(seed: int) -> list[str]:
        fake.order("webhooks/hold")
        for name in "abcdef":
            client.v1.customers.create(params={"name": name})
        time.sleep(0.2)
        assert receiver.deliveries == []
        sent = fake.order("webhooks/release", seed=seed)["sent"]
        arrived = [
            json.loads(item.payload)["data"]["object"]["name"] for item in receiver.deliveries
        ]
        assert [item["status"] for item in sent] == [200] * 6
        receiver.clear()
        return arrived

    first, again, other, plain = release(7), release(7), release(8), release(-1)

    assert first == again
    assert first != other
    assert sorted(first) == plain == list("abcdef")


def test_a_whole_purchase_is_told(fake, client, receiver, session):
    receiver.wait_for(1)
    fake.order(f"checkout/{session.id}/pay")
    receiver.wait_for(6)

    assert sorted(types(receiver)) == [
        "charge.succeeded",
        "charge.updated",
        "checkout.session.completed",
        "customer.created",
        "payment_intent.created",
        "payment_intent.succeeded",
    ]


def test_events_are_found_by_type(fake, client, session):
    fake.order(f"checkout/{session.id}/pay")

    def listed(**params) -> list[str]:
        return [event.type for event in client.v1.events.list(params=params).data]

    assert listed(type="charge.*") == ["charge.updated", "charge.succeeded"]
    assert listed(type="checkout.session.completed") == ["checkout.session.completed"]
    assert listed(types=["customer.created", "charge.updated"]) == [
        "charge.updated",
        "customer.created",
    ]
    with pytest.raises(stripe.InvalidRequestError):
        listed(type="a", types=["b"])
    assert listed(types=[f"t{number}" for number in range(20)]) == []
    with pytest.raises(stripe.InvalidRequestError, match="up to 20"):
        listed(types=[f"t{number}" for number in range(21)])


def test_events_are_forgotten_after_thirty_days(fake, client, customer):
    [event] = client.v1.events.list().data
    fake.order("clock", offset_s=31 * 86_400)

    assert client.v1.events.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        client.v1.events.retrieve(event.id)


@pytest.mark.parametrize(
    ("_case", "path", "body"),
    [
        ("unknown member", "faults", {"kind": "reset", "tmes": 1}),
        ("unknown fault", "faults", {"kind": "explode"}),
        ("no kind", "faults", {}),
        ("wrong type", "faults", {"kind": "reset", "times": "1"}),
        ("out of range", "faults", {"kind": "delay", "delay_s": 601}),
        ("unknown behaviour", "webhooks", {"behaviour": "shred"}),
        ("not held", "webhooks/release", {}),
        ("no event", "events/evt_1/send", {}),
        ("no offset", "clock", {}),
        ("truth for a number", "clock", {"offset_s": True}),
    ],
)
def test_orders_that_are_not_understood_are_refused(fake, _case, path, body):
    answer = requests.post(f"{fake.url}/_test/{path}", json=body, timeout=10)

    assert answer.status_code == 400
    assert fake.state()["faults"] == []
    assert fake.state()["webhooks"] == []


def test_a_form_of_another_site_gives_no_orders(fake):
    answer = requests.post(
        f"{fake.url}/_test/faults",
        data='{"kind": "reset"}',
        headers={"Content-Type": "text/plain"},
        timeout=10,
    )

    assert answer.status_code == 400
    assert fake.state()["faults"] == []
