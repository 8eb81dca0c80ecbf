"""Kept cards, charges, refunds and disputes, by the real SDK against the stand-in."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests

from billing.errors import CardDeclinedError, StripeRefusedError, StripeUnavailableError
from billing.stripe import calls
from billing.stripe.client import Card, Charge, Dispute, FraudWarning, PaymentIntent, Refund
from fakestripe import cards
from tests.billing.stripe_client.traffic import ACCOUNT_ID, TOPUP_ID, open_page, pay

DAY_S = 86_400


def today() -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"created_from": now - timedelta(hours=1), "created_until": now + timedelta(hours=1)}


def save_card(gateway, customer_id: str, number: str = cards.SUCCESS) -> Card:
    session = gateway.create_setup_session(
        account_id=ACCOUNT_ID,
        customer_id=customer_id,
        success_url="https://shop.example.com/cards",
        cancel_url="https://shop.example.com/cards",
        idempotency_key=f"setup:{number}",
    )
    pay(session, number)
    found = gateway.retrieve_checkout_session(session.id)
    if found.status == "open":  # The bank asks.
        complete(session, number)
    return gateway.retrieve_saved_card(session.setup_intent_id)


def complete(session, number: str) -> None:
    requests.post(
        f"{session.url}/pay",
        data={"card_number": number, "authentication": "complete"},
        allow_redirects=False,
        timeout=10,
    )


def charge(gateway, card: Card, *, key: str = "", amount_cents: int = 5_000) -> PaymentIntent:
    return gateway.charge_card(
        customer_id=card.customer,
        payment_method_id=card.id,
        amount_cents=amount_cents,
        metadata={"topup_id": str(TOPUP_ID)},
        idempotency_key=key or f"auto:{card.id}",
    )


def charged(gateway, customer_id: str, number: str = cards.SUCCESS) -> Charge:
    intent = charge(gateway, save_card(gateway, customer_id, number))
    return gateway.retrieve_charge(intent.latest_charge_id)


def refund(gateway, paid: Charge, *, amount_cents: int = 1_000, key: str = "refund:1") -> Refund:
    return gateway.create_refund(
        payment_intent_id=paid.payment_intent_id,
        amount_cents=amount_cents,
        metadata={"refund_id": key},
        idempotency_key=key,
    )


def test_a_card_is_saved_without_a_payment(fake, gateway, customer_id):
    session = gateway.create_setup_session(
        account_id=ACCOUNT_ID,
        customer_id=customer_id,
        success_url="https://shop.example.com/cards",
        cancel_url="https://shop.example.com/cards",
        idempotency_key="setup:1",
    )
    assert (session.mode, session.status, session.payment_status) == (
        "setup",
        "open",
        "no_payment_required",
    )
    assert (session.amount_total, session.payment_intent_id) == (None, None)
    assert gateway.retrieve_saved_card(session.setup_intent_id) is None

    assert pay(session).status_code == 303

    card = gateway.retrieve_saved_card(session.setup_intent_id)
    assert card == Card(
        id=card.id,
        brand="visa",
        last4="4242",
        exp_month=12,
        exp_year=2034,
        fingerprint="test4242",
        customer=customer_id,
    )
    assert gateway.retrieve_checkout_session(session.id).status == "complete"
    assert gateway.list_cards(customer_id) == [card]
    assert gateway.retrieve_card(card.id) == card
    assert (fake.count("charge"), fake.count("payment_intent")) == (0, 0)


def test_a_top_up_can_save_its_card(gateway, customer_id):
    plain = open_page(gateway, customer_id)
    pay(plain)
    assert gateway.list_cards(customer_id) == []

    saving = open_page(gateway, customer_id, save_card=True, idempotency_key="k2")
    pay(saving, cards.DECLINE)
    assert gateway.list_cards(customer_id) == []
    pay(saving)

    [card] = gateway.list_cards(customer_id)
    assert charge(gateway, card).status == "succeeded"


def test_tax_comes_on_top_and_is_told_apart(fake, gateway, customer_id):
    fake.order("tax", rate_bps=825)
    opened = open_page(gateway, customer_id, is_taxed=True)
    assert (opened.amount_subtotal, opened.amount_tax, opened.amount_total) == (2_500, 0, 2_500)

    pay(opened)

    paid = gateway.retrieve_checkout_session(opened.id)
    intent = gateway.retrieve_payment_intent(paid.payment_intent_id)
    # 8.25 % of $25.00 is 206.25 cents.
    assert (paid.amount_subtotal, paid.amount_tax, paid.amount_total) == (2_500, 206, 2_706)
    assert intent.amount_received == 2_706


def test_a_kept_card_is_charged_while_its_owner_is_away(gateway, customer_id, receiver):
    card = save_card(gateway, customer_id)
    intent = charge(gateway, card)
    paid = gateway.retrieve_charge(intent.latest_charge_id)

    assert intent == PaymentIntent(
        id=intent.id,
        status="succeeded",
        amount=5_000,
        amount_received=5_000,
        currency="usd",
        customer=customer_id,
        metadata={"topup_id": str(TOPUP_ID)},
        latest_charge_id=paid.id,
    )
    movement = gateway.retrieve_balance_transaction(paid.balance_transaction_id)
    assert paid == Charge(
        id=paid.id,
        payment_intent_id=intent.id,
        customer=customer_id,
        amount=5_000,
        amount_refunded=0,
        is_disputed=False,
        card_fingerprint="test4242",
        card_funding="credit",
        risk_level="normal",
        balance_transaction_id=movement.id,
        created_at=paid.created_at,
    )
    assert (movement.amount, movement.fee, movement.source) == (5_000, 175, paid.id)
    assert gateway.list_charges(**today()) == [paid]
    assert gateway.list_payment_intents(**today()) == [intent]


@pytest.mark.parametrize(
    ("number", "decline_code"),
    [
        (cards.REFUSED_LATER, "generic_decline"),
        (cards.AUTHENTICATE_ALWAYS, "authentication_required"),
    ],
)
def test_a_decline_is_told_with_its_reason_and_what_is_left(
    fake, gateway, customer_id, number, decline_code
):
    card = save_card(gateway, customer_id, number)
    for _ in range(2):  # The same key gives the same answer and makes nothing new.
        with pytest.raises(CardDeclinedError) as caught:
            charge(gateway, card)

    params = caught.value.params
    assert isinstance(caught.value, StripeRefusedError)
    assert (caught.value.code, caught.value.retryable) == ("card_declined", False)
    assert params["decline_code"] == decline_code
    left = gateway.retrieve_payment_intent(params["payment_intent_id"])
    assert (left.status, left.amount_received) == ("requires_payment_method", 0)
    assert fake.count("payment_intent") == 1
    assert gateway.retrieve_balance().pending_cents == 0
    assert pickle.loads(pickle.dumps(caught.value)).params == params


def test_a_card_that_was_confirmed_once_needs_no_one_later(gateway, customer_id):
    card = save_card(gateway, customer_id, cards.AUTHENTICATE_ONCE)

    assert charge(gateway, card).status == "succeeded"


def test_a_detached_card_is_gone_for_good(gateway, customer_id):
    card = save_card(gateway, customer_id)
    gone = gateway.detach_card(card.id, idempotency_key="detach:1")

    assert gone.customer is None
    assert gateway.detach_card(card.id, idempotency_key="detach:1") == gone
    assert gateway.list_cards(customer_id) == []
    assert gateway.retrieve_card(card.id).customer is None
    with pytest.raises(StripeRefusedError):
        charge(gateway, replace(card, customer=customer_id))


def test_nobody_is_charged_by_the_card_of_another(fake, gateway, customer_id):
    card = save_card(gateway, customer_id)
    other = gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="customer:b")
    with pytest.raises(StripeRefusedError) as caught:
        charge(gateway, replace(card, customer=other))

    assert not isinstance(caught.value, CardDeclinedError)
    assert fake.count("payment_intent") == 0


def test_a_lost_charge_is_one_charge_and_is_found_again(fake, gateway, customer_id):
    card = save_card(gateway, customer_id)
    fake.order("faults", kind="drop_after_effect", path="/v1/payment_intents", times=3)
    with pytest.raises(StripeUnavailableError):
        charge(gateway, card)

    found = gateway.find_payment_intent(
        customer_id=customer_id, key="topup_id", value=str(TOPUP_ID)
    )

    assert charge(gateway, card) == found
    assert fake.count("charge") == 1
    assert (
        gateway.find_payment_intent(customer_id=customer_id, key="topup_id", value="other") is None
    )


def test_after_a_day_the_key_is_forgotten_and_the_search_is_not(fake, gateway, customer_id):
    # Why callers look before they repeat an old call.
    card = save_card(gateway, customer_id)
    first = charge(gateway, card)
    fake.order("clock", advance_s=DAY_S + 5)
    found = gateway.find_payment_intent(
        customer_id=customer_id, key="topup_id", value=str(TOPUP_ID)
    )
    again = charge(gateway, card)

    assert found == first
    assert again.id != first.id


def test_refunds_go_at_once_or_later_or_fail_after_all(fake, gateway, customer_id):
    paid = charged(gateway, customer_id)
    given = refund(gateway, paid)
    assert given == Refund(
        id=given.id,
        status="succeeded",
        amount=1_000,
        payment_intent_id=paid.payment_intent_id,
        charge_id=paid.id,
        metadata={"refund_id": "refund:1"},
        failure_reason=None,
        balance_transaction_id=given.balance_transaction_id,
        created_at=given.created_at,
    )
    assert gateway.retrieve_charge(paid.id).amount_refunded == 1_000

    fake.order(f"refunds/{given.id}/settle", status="failed", failure_reason="declined")

    failed = gateway.retrieve_refund(given.id)
    assert (failed.status, failed.failure_reason) == ("failed", "declined")
    assert gateway.retrieve_charge(paid.id).amount_refunded == 0
    moved = [(row.type, row.amount) for row in gateway.list_balance_transactions(**today())]
    assert moved == [("refund_failure", 1_000), ("refund", -1_000), ("charge", 5_000)]


@pytest.mark.parametrize(
    ("number", "first", "then"),
    [(cards.REFUND_SLOW, "pending", "succeeded"), (cards.REFUND_FAILS, "succeeded", "failed")],
)
def test_some_cards_take_refunds_slowly_or_never(fake, gateway, customer_id, number, first, then):
    given = refund(gateway, charged(gateway, customer_id, number))
    fake.order("clock", advance_s=3_601)

    assert (given.status, gateway.retrieve_refund(given.id).status) == (first, then)


def test_a_refund_is_found_again_and_listed(fake, gateway, customer_id):
    paid = charged(gateway, customer_id)
    fake.order("faults", kind="drop_after_effect", path="/v1/refunds", times=3)
    with pytest.raises(StripeUnavailableError):
        refund(gateway, paid)
    found = gateway.find_refund(
        payment_intent_id=paid.payment_intent_id, key="refund_id", value="refund:1"
    )

    assert refund(gateway, paid) == found
    assert gateway.list_refunds(**today()) == [found]
    assert (
        gateway.find_refund(
            payment_intent_id=paid.payment_intent_id, key="refund_id", value="refund:2"
        )
        is None
    )


def test_more_than_the_rest_is_refused(fake, gateway, customer_id):
    paid = charged(gateway, customer_id)
    refund(gateway, paid, amount_cents=4_000)
    with pytest.raises(StripeRefusedError):
        refund(gateway, paid, amount_cents=1_001, key="refund:2")
    refund(gateway, paid, amount_cents=1_000, key="refund:3")

    assert fake.count("refund") == 2


def test_a_dispute_takes_the_money_and_may_give_it_back(fake, gateway, customer_id, receiver):
    paid = charged(gateway, customer_id)
    dispute_id = fake.order(f"charges/{paid.id}/dispute", reason="fraudulent")["id"]
    opened = gateway.retrieve_dispute(dispute_id)

    assert opened == Dispute(
        id=dispute_id,
        status="needs_response",
        reason="fraudulent",
        amount=5_000,
        currency="usd",
        charge_id=paid.id,
        payment_intent_id=paid.payment_intent_id,
        balance_transaction_ids=opened.balance_transaction_ids,
        withdrawn_cents=5_000,
        fee_cents=1_500,
        created_at=opened.created_at,
    )
    [taken] = [gateway.retrieve_balance_transaction(i) for i in opened.balance_transaction_ids]
    assert (taken.type, taken.amount, taken.fee, taken.net) == ("adjustment", -5_000, 1_500, -6_500)
    assert gateway.retrieve_charge(paid.id).is_disputed is True
    with pytest.raises(StripeRefusedError):
        refund(gateway, paid)

    fake.order(f"disputes/{dispute_id}/close", status="won", fee_returned_cents=1_500)

    won = gateway.retrieve_dispute(dispute_id)
    assert (won.status, won.withdrawn_cents, won.fee_cents) == ("won", 0, 0)
    assert len(won.balance_transaction_ids) == 2
    assert gateway.list_disputes(**today()) == [won]


def test_a_lost_dispute_keeps_the_money_and_an_inquiry_takes_none(fake, gateway, customer_id):
    paid = charged(gateway, customer_id)
    asked = fake.order(f"charges/{paid.id}/dispute", is_inquiry=True)["id"]
    inquiry = gateway.retrieve_dispute(asked)
    assert (inquiry.status, inquiry.withdrawn_cents) == ("warning_needs_response", 0)
    fake.order(f"disputes/{asked}/close", status="warning_closed")
    assert gateway.retrieve_dispute(asked).status == "warning_closed"

    other = charged(gateway, customer_id, "5555555555554444")
    lost = fake.order(f"charges/{other.id}/dispute", amount=700, fee_cents=0)["id"]
    fake.order(f"disputes/{lost}/close", status="lost")

    found = gateway.retrieve_dispute(lost)
    assert (found.status, found.withdrawn_cents, found.fee_cents) == ("lost", 700, 0)


def test_a_fraud_warning_is_a_reason_to_act_until_the_money_is_back(fake, gateway, customer_id):
    paid = charged(gateway, customer_id)
    warning_id = fake.order(f"charges/{paid.id}/fraud_warning")["id"]
    warning = gateway.retrieve_fraud_warning(warning_id)
    assert warning == FraudWarning(
        id=warning_id,
        charge_id=paid.id,
        payment_intent_id=paid.payment_intent_id,
        is_actionable=True,
        fraud_type="made_with_stolen_card",
        created_at=warning.created_at,
    )

    refund(gateway, paid, amount_cents=5_000)

    assert gateway.retrieve_fraud_warning(warning_id).is_actionable is False
    assert [item.id for item in gateway.list_fraud_warnings(**today())] == [warning_id]


def test_money_that_came_in_must_be_waited_for(fake, gateway, customer_id):
    charged(gateway, customer_id)
    before = gateway.retrieve_balance()
    fake.order("clock", advance_s=2 * DAY_S + 5)
    after = gateway.retrieve_balance()

    assert (before.available_cents, before.pending_cents) == (0, 4_825)
    assert (after.available_cents, after.pending_cents) == (4_825, 0)


def test_every_movement_adds_up_to_the_balance(fake, gateway, customer_id):
    fake.order("balance/move", amount=10_000)
    paid = charged(gateway, customer_id)
    refund(gateway, paid)
    other = charged(gateway, customer_id, cards.DISPUTED)
    rows = gateway.list_balance_transactions(**today())
    found = gateway.retrieve_balance()

    assert gateway.retrieve_charge(other.id).is_disputed is True
    types = ["adjustment", "charge", "charge", "refund", "topup"]
    assert sorted(row.type for row in rows) == types
    assert sum(row.net for row in rows) == found.available_cents + found.pending_cents
    assert all(row.amount - row.fee == row.net for row in rows)


@pytest.mark.parametrize("name", ["charges", "payment_intents", "refunds", "disputes"])
def test_no_list_is_cut_short_silently(fake, gateway, customer_id, monkeypatch, name):
    paid = charged(gateway, customer_id)
    for number in range(2):
        refund(gateway, paid, key=f"refund:{number}")
    card = gateway.list_cards(customer_id)[0]
    last = charge(gateway, card, key="auto:2")
    for charge_id in (paid.id, last.latest_charge_id):
        fake.order(f"charges/{charge_id}/dispute")
    list_of = getattr(gateway, f"list_{name}")
    assert len(list_of(**today())) == 2
    old = datetime.now(UTC) - timedelta(days=1)
    assert list_of(created_from=old, created_until=old + timedelta(hours=1)) == []

    monkeypatch.setattr(calls, "LIST_SIZE_MAX", 1)

    with pytest.raises(StripeRefusedError, match="too many"):
        list_of(**today())
