"""Stripe's clock, and books that someone has falsified."""

from __future__ import annotations

import pytest
import requests
import stripe

from fakestripe import cards, routes


def clock(fake) -> dict[str, int]:
    return requests.get(f"{fake.url}/_test/clock", timeout=10).json()


def mutate(fake, identifier: str, action: str, **members):
    return requests.post(
        f"{fake.url}/_test/mutate",
        json={"id": identifier, "action": action, "members": members},
        timeout=10,
    )


@pytest.fixture
def movement(fake, client, session) -> stripe.BalanceTransaction:
    fake.order(f"checkout/{session.id}/pay")
    return client.v1.balance_transactions.list().data[0]


def test_time_passes_when_ordered(fake):
    before = clock(fake)
    fake.order("clock", advance_s=100)
    fake.order("clock", advance_s=50)
    after = clock(fake)

    assert (before["offset_s"], after["offset_s"]) == (0, 150)
    assert 150 <= after["now"] - before["now"] <= 155


def test_the_clock_takes_one_order_at_a_time(fake):
    body = {"advance_s": 5, "offset_s": 5}
    assert requests.post(f"{fake.url}/_test/clock", json=body, timeout=10).status_code == 400
    assert clock(fake)["offset_s"] == 0


def test_what_was_due_carries_the_time_at_which_it_was_due(fake, client, session):
    fake.order("clock", advance_s=10 * 86_400)
    [event] = client.v1.events.list(params={"type": "checkout.session.expired"}).data

    assert event.created == session.expires_at


def test_deliveries_are_tried_again_as_time_passes(fake, client, receiver):
    receiver.statuses[:] = [500] * 4
    client.v1.customers.create(params={"name": "a"})
    receiver.wait_for(1)
    # By the schedule, the fifth try would come after 18 seconds.
    for count in range(2, 6):
        fake.order("clock", advance_s=60)
        receiver.wait_for(count, timeout_s=5)

    assert len(receiver.deliveries) == 5


def test_a_movement_is_lost(fake, client, movement):
    assert mutate(fake, movement.id, "delete").json() == {}

    assert client.v1.balance_transactions.list().data == []
    assert client.v1.balance.retrieve().pending[0].amount == 0


def test_a_movement_is_altered(fake, client, movement):
    mutate(fake, movement.id, "alter", amount=2_400, net=2_297)

    found = client.v1.balance_transactions.retrieve(movement.id)
    assert (found.amount, found.net, found.fee) == (2_400, 2_297, 103)
    assert client.v1.balance.retrieve().pending[0].amount == 2_297


def test_a_movement_is_doubled(fake, client, movement):
    double = mutate(fake, movement.id, "duplicate").json()

    ids = [row.id for row in client.v1.balance_transactions.list().data]
    assert ids == [double["id"], movement.id]
    assert double["id"].startswith("txn_")
    assert client.v1.balance.retrieve().pending[0].amount == 2 * 2_397


def test_a_movement_is_moved_to_another_day(fake, client, movement):
    mutate(fake, movement.id, "alter", created=movement.created - 86_400)
    since = {"created": {"gte": movement.created - 60}}

    assert client.v1.balance_transactions.list(params=since).data == []


@pytest.mark.parametrize(
    ("action", "members", "message"),
    [
        ("alter", {"bogus": 1}, "It has no bogus."),
        ("alter", {"amount": "much"}, "amount"),
        ("steal", {}, "action must be one of"),
    ],
)
def test_what_is_falsified_still_keeps_the_description(
    fake, client, movement, action, members, message
):
    answer = mutate(fake, movement.id, action, **members)

    assert answer.status_code == 400
    assert message in answer.text
    assert client.v1.balance_transactions.retrieve(movement.id).amount == 2_500
    assert mutate(fake, "txn_none", "delete").status_code == 404


def test_a_report_is_falsified_by_its_identifier(fake, client, customer):
    meter = client.v1.billing.meters.create(
        {"event_name": "e", "display_name": "E", "default_aggregation": {"formula": "sum"}}
    )
    fake.order("meters", delay_s=0)
    payload = {"stripe_customer_id": customer.id, "value": "5"}
    client.v1.billing.meter_events.create(
        {"event_name": "e", "identifier": "one", "payload": payload}
    )
    mutate(fake, "one", "alter", payload=payload | {"value": "7"})
    mutate(fake, "one", "duplicate")
    now = clock(fake)["now"]
    hour = now - now % 3_600
    [row] = client.v1.billing.meters.event_summaries.list(
        meter.id,
        params={"customer": customer.id, "start_time": hour - 3_600, "end_time": hour + 3_600},
    ).data

    assert row.aggregated_value == 14


@pytest.mark.parametrize(
    "path", sorted(path for method, path in routes.HANDLERS if method == "POST")
)
def test_every_post_can_fail(fake, path):
    address = path.replace("{", "").replace("}", "")
    fake.order("faults", kind="rate_limit", method="POST", path=address)
    limited = fake.request("POST", address)
    fake.order("faults", kind="conflict", method="POST", path=address)
    conflict = fake.request("POST", address)
    fake.order("faults", kind="drop_after_effect", method="POST", path=address)

    assert (limited.status_code, conflict.status_code) == (429, 409)
    with pytest.raises(requests.ConnectionError):
        fake.request("POST", address)


def test_a_card_that_was_used_up_elsewhere_is_no_card_of_the_customer(fake, client, session):
    fake.order(f"checkout/{session.id}/pay", card_number=cards.SUCCESS)
    method = client.v1.charges.list().data[0].payment_method
    with pytest.raises(stripe.InvalidRequestError, match="not attached to a customer"):
        client.v1.payment_methods.detach(method)
    kept = client.v1.payment_methods.attach(method, params={"customer": session.customer})
    assert kept.customer == session.customer
    client.v1.payment_methods.detach(method)
    with pytest.raises(stripe.InvalidRequestError, match="may not be used again"):
        client.v1.payment_methods.attach(method, params={"customer": session.customer})
