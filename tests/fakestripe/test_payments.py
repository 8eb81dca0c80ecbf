from __future__ import annotations

import pytest
import stripe


@pytest.fixture
def intent(fake, client, session) -> stripe.PaymentIntent:
    fake.order(f"checkout/{session.id}/pay")
    paid = client.v1.checkout.sessions.retrieve(session.id)
    return client.v1.payment_intents.retrieve(paid.payment_intent)


def balance(client) -> dict[str, int]:
    found = client.v1.balance.retrieve()
    return {"available": found.available[0].amount, "pending": found.pending[0].amount}


def test_a_card_payment_leaves_one_movement_with_its_fee(client, intent):
    [row] = client.v1.balance_transactions.list(params={"source": intent.latest_charge}).data

    # 2.9 % of $25.00 is 72.5 cents, half up, and 30 cents.
    assert (row.type, row.amount, row.fee, row.net) == ("charge", 2_500, 103, 2_397)
    assert [(item.type, item.amount) for item in row.fee_details] == [("stripe_fee", 103)]
    assert client.v1.charges.retrieve(intent.latest_charge).balance_transaction == row.id


def test_money_is_pending_for_two_days(fake, client, intent):
    assert balance(client) == {"available": 0, "pending": 2_397}

    fake.order("clock", offset_s=2 * 86_400 + 5)

    assert balance(client) == {"available": 2_397, "pending": 0}
    assert client.v1.balance_transactions.list().data[0].status == "available"


def test_part_of_a_payment_is_refunded_and_the_fee_is_not(client, intent):
    refund = client.v1.refunds.create(
        params={"payment_intent": intent.id, "amount": 1_000, "metadata": {"topup_id": "1"}}
    )
    charge = client.v1.charges.retrieve(intent.latest_charge)
    row = client.v1.balance_transactions.retrieve(refund.balance_transaction)

    assert (refund.status, refund.amount, refund.charge) == ("succeeded", 1_000, charge.id)
    assert (charge.amount_refunded, charge.refunded) == (1_000, False)
    assert (row.type, row.amount, row.fee, row.net) == ("refund", -1_000, 0, -1_000)
    types = [event.type for event in client.v1.events.list(params={"limit": 2}).data]
    assert types == ["charge.refunded", "refund.created"]


def test_without_an_amount_the_rest_is_refunded(client, intent):
    client.v1.refunds.create(params={"payment_intent": intent.id, "amount": 1_000})
    rest = client.v1.refunds.create(params={"charge": intent.latest_charge})

    assert rest.amount == 1_500
    assert client.v1.charges.retrieve(intent.latest_charge).refunded is True
    assert len(client.v1.refunds.list(params={"payment_intent": intent.id}).data) == 2


@pytest.mark.parametrize(
    ("_case", "params", "message"),
    [
        ("too much", {"amount": 2_501}, "greater than unrefunded amount"),
        ("nothing", {"amount": 0}, "Invalid positive integer"),
        ("neither", {"payment_intent": None}, "exactly one of"),
        ("both", {"charge": "ch_1"}, "exactly one of"),
        ("unknown", {"payment_intent": "pi_1"}, "No such payment_intent"),
    ],
)
def test_bad_refunds_are_refused(fake, client, intent, _case, params, message):
    merged = {"payment_intent": intent.id} | params
    with pytest.raises(stripe.InvalidRequestError, match=message):
        client.v1.refunds.create(
            params={name: value for name, value in merged.items() if value is not None}
        )

    assert fake.count("refund") == 0
    assert balance(client)["pending"] == 2_397


def test_nothing_is_refunded_twice(fake, client, intent):
    client.v1.refunds.create(params={"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create(params={"payment_intent": intent.id})

    assert caught.value.code == "charge_already_refunded"
    assert fake.count("refund") == 1


def test_a_card_is_kept_only_when_that_was_asked_for(fake, client, session_params):
    def customer_of_method(setup: dict[str, str]) -> str | None:
        data = session_params["payment_intent_data"] | setup
        session = client.v1.checkout.sessions.create(
            params=session_params | {"payment_intent_data": data}
        )
        fake.order(f"checkout/{session.id}/pay")
        intent = client.v1.checkout.sessions.retrieve(
            session.id, params={"expand": ["payment_intent.payment_method"]}
        ).payment_intent
        return intent.payment_method.customer

    assert customer_of_method({}) is None
    kept = customer_of_method({"setup_future_usage": "off_session"})
    assert kept == session_params["customer"]
