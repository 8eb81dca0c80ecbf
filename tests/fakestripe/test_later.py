"""What happens to money after it was paid, as webhooks tell it."""

from __future__ import annotations

import pytest
import requests
import stripe

from fakestripe import cards


def pay(fake, session, number: str = cards.SUCCESS) -> None:
    fake.order(f"checkout/{session.id}/pay", card_number=number)


def types_since(client, count: int) -> list[str]:
    return [event.type for event in client.v1.events.list(params={"limit": count}).data][::-1]


@pytest.fixture
def charge(fake, client, session) -> stripe.Charge:
    pay(fake, session)
    return client.v1.charges.list().data[0]


def test_a_dispute_is_told_step_by_step(fake, client, charge):
    before = len(client.v1.events.list(params={"limit": 100}).data)
    opened = fake.order(f"charges/{charge.id}/dispute")
    fake.order(f"disputes/{opened['id']}/close", status="won")
    after = len(client.v1.events.list(params={"limit": 100}).data)

    assert types_since(client, after - before) == [
        "charge.dispute.created",
        "charge.updated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
    ]


@pytest.mark.parametrize(
    ("_case", "order", "is_taken"),
    [
        ("all of it", {"amount": 2_500}, True),
        ("more", {"amount": 2_501}, False),
        ("no reason", {"reason": "whim"}, False),
    ],
)
def test_a_dispute_is_about_the_charge_or_a_part(fake, charge, _case, order, is_taken):
    answer = requests.post(f"{fake.url}/_test/charges/{charge.id}/dispute", json=order, timeout=10)

    assert (answer.status_code == 200) is is_taken
    assert fake.count("dispute") == int(is_taken)


def test_a_dispute_is_answered_accepted_and_then_closed(fake, client, charge):
    opened = fake.order(f"charges/{charge.id}/dispute")
    answered = client.v1.disputes.update(
        opened["id"], params={"evidence": {"product_description": "Predictions"}, "submit": True}
    )
    assert (answered.status, answered.evidence_details.submission_count) == ("under_review", 1)
    accepted = client.v1.disputes.close(opened["id"])

    assert accepted.status == "lost"
    with pytest.raises(stripe.InvalidRequestError, match="already closed"):
        client.v1.disputes.close(opened["id"])
    again = requests.post(f"{fake.url}/_test/charges/{charge.id}/dispute", json={}, timeout=10)
    assert again.status_code == 400


def test_some_cards_are_disputed_or_reported_at_once(fake, client, session_params):
    for number in (cards.DISPUTED, cards.FRAUD_WARNING):
        pay(fake, client.v1.checkout.sessions.create(params=session_params), number)

    [dispute] = client.v1.disputes.list().data
    [warning] = client.v1.radar.early_fraud_warnings.list().data
    assert (dispute.reason, dispute.balance_transactions[0].net) == ("fraudulent", -4_000)
    assert (warning.actionable, warning.fraud_type) == (True, "made_with_stolen_card")
    assert warning.charge != dispute.charge


def test_a_refund_that_fails_is_told_and_can_be_made_again(fake, client, session):
    pay(fake, session, cards.REFUND_FAILS)
    intent = client.v1.payment_intents.list().data[0].id
    first = client.v1.refunds.create(params={"payment_intent": intent})
    fake.order("clock", advance_s=3_601)

    assert types_since(client, 2) == ["refund.failed", "refund.updated"]
    assert client.v1.refunds.retrieve(first.id).status == "failed"
    assert client.v1.refunds.create(params={"payment_intent": intent}).status == "succeeded"


def test_metadata_can_be_added_later(fake, client, charge):
    changed = client.v1.charges.update(charge.id, params={"metadata": {"note": "x"}})

    assert changed.metadata.to_dict() == {"topup_id": "1", "note": "x"}
    assert types_since(client, 1) == ["charge.updated"]


def test_the_bank_may_ask_at_the_page(fake, client, session):
    url = f"{session.url}/pay"
    number = cards.AUTHENTICATE_ONCE
    asked = requests.post(url, data={"card_number": number}, timeout=10)
    assert "Confirm it is you" in asked.text
    assert "Stand-in for Stripe: no money moves" in asked.text
    assert fake.count("charge") == 0

    failed = requests.post(url, data={"card_number": number, "authentication": "fail"}, timeout=10)
    assert (failed.status_code, "unable to authenticate" in failed.text) == (402, True)
    done = requests.post(
        url,
        data={"card_number": number, "authentication": "complete"},
        allow_redirects=False,
        timeout=10,
    )

    assert done.status_code == 303
    assert client.v1.checkout.sessions.retrieve(session.id).payment_status == "paid"


def test_tax_is_shown_on_the_page_and_needs_an_address(fake, client, session_params):
    taxed = session_params | {"automatic_tax": {"enabled": True}}
    with pytest.raises(stripe.InvalidRequestError, match="valid address"):
        client.v1.checkout.sessions.create(params=taxed)
    taxed["customer_update"] = {"address": "auto"}
    fake.order("tax", rate_bps=1_900)
    session = client.v1.checkout.sessions.create(params=taxed)
    assert session.automatic_tax.status == "requires_location_inputs"

    page = requests.get(session.url, timeout=10).text

    assert '<p class="amount">$29.75</p>' in page
    assert "<dt>Tax</dt><dd>$4.75</dd>" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"line_items": [], "mode": "setup"}, "can not pass `line_items`"),
        ({"currency": None}, "either `currency` or `payment_method_types`"),
    ],
)
def test_a_page_that_saves_a_card_takes_no_payment(client, session_params, changes, message):
    params = {
        "mode": "setup",
        "currency": "usd",
        "customer": session_params["customer"],
        "success_url": "https://shop.example.com",
        "line_items": session_params["line_items"] if "line_items" in changes else None,
    } | {name: value for name, value in changes.items() if name != "line_items"}
    given = {name: value for name, value in params.items() if value is not None}
    with pytest.raises(stripe.InvalidRequestError, match=message):
        client.v1.checkout.sessions.create(params=given)


def test_a_setup_page_refuses_and_expires(fake, client, customer):
    session = client.v1.checkout.sessions.create(
        params={
            "mode": "setup",
            "currency": "usd",
            "customer": customer.id,
            "success_url": "https://shop.example.com",
        }
    )
    page = requests.get(session.url, timeout=10)
    assert "Nothing is charged now." in page.text
    assert '<button type="submit">Save card</button>' in page.text
    refused = requests.post(f"{session.url}/pay", data={"card_number": cards.DECLINE}, timeout=10)
    assert refused.status_code == 402
    fake.order("clock", advance_s=24 * 3_600 + 5)

    assert requests.get(session.url, timeout=10).status_code == 410
    assert client.v1.setup_intents.retrieve(session.setup_intent).status == "canceled"
    assert types_since(client, 2) == ["setup_intent.canceled", "checkout.session.expired"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"off_session": False}, "off_session"),
        ({"confirm": False}, "confirm"),
        ({"amount": 49}, "at least"),
        ({"amount": 100_000_000}, "no more than"),
        ({"automatic_payment_methods": {"enabled": True}}, "return_url"),
        ({"payment_method": "pm_none"}, "No such payment_method"),
    ],
)
def test_charges_that_nobody_could_mean_are_refused(fake, client, customer, changes, message):
    params = {
        "amount": 500,
        "currency": "usd",
        "customer": customer.id,
        "payment_method": "pm_none",
        "off_session": True,
        "confirm": True,
    }
    with pytest.raises(stripe.InvalidRequestError, match=message):
        client.v1.payment_intents.create(params=params | changes)
    assert fake.count("payment_intent") == 0
