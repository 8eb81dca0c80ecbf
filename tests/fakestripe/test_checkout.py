from __future__ import annotations

import re
import time

import pytest
import requests
import stripe


def pay(url: str, card_number: str) -> requests.Response:
    return requests.post(
        f"{url}/pay", data={"card_number": card_number}, allow_redirects=False, timeout=10
    )


def types_since(client, count: int) -> list[str]:
    return [event.type for event in client.v1.events.list(params={"limit": count}).data][::-1]


def test_a_new_session_is_open_and_unpaid(fake, session, customer):
    assert re.fullmatch(r"cs_test_[A-Za-z0-9]{58}", session.id)
    assert session.url == f"{fake.url}/checkout/{session.id}"
    assert (session.status, session.payment_status) == ("open", "unpaid")
    assert (session.amount_total, session.currency) == (2_500, "usd")
    assert session.customer == customer.id
    assert session.payment_intent is None
    assert session.metadata.to_dict() == {"topup_id": "1"}
    assert 86_400 - 5 <= session.expires_at - int(time.time()) <= 86_400


def test_the_page_shows_amount_card_button_and_way_back(session):
    page = requests.get(session.url, timeout=10)

    assert page.status_code == 200
    assert '<p class="amount">$25.00</p>' in page.text
    assert "Prediction credit" in page.text
    assert 'name="card_number" value="4242 4242 4242 4242"' in page.text
    assert '<button type="submit">Pay $25.00</button>' in page.text
    assert 'href="https://shop.example.com/cancelled">Cancel</a>' in page.text
    assert "Stand-in for Stripe: no money moves" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self' https://shop.example.com" in policy


def test_the_address_of_the_form_leads_to_the_page(session):
    # Where the browser stands after a refused card.
    page = requests.get(f"{session.url}/pay", timeout=10)

    assert (page.status_code, page.url) == (200, session.url)


def test_names_on_the_page_are_no_markup(client, session_params):
    session_params["line_items"][0]["price_data"]["product_data"]["name"] = "<script>x</script>"
    session = client.v1.checkout.sessions.create(params=session_params)
    page = requests.get(session.url, timeout=10)

    assert "<script>" not in page.text
    assert "&lt;script&gt;x&lt;/script&gt;" in page.text


def test_paying_completes_the_session_and_leads_back(client, session, customer):
    answer = pay(session.url, "4242 4242 4242 4242")
    found = client.v1.checkout.sessions.retrieve(
        session.id, params={"expand": ["payment_intent.latest_charge"]}
    )

    assert answer.status_code == 303
    assert answer.headers["Location"] == f"https://shop.example.com/done?session={session.id}"
    assert (found.status, found.payment_status, found.url) == ("complete", "paid", None)
    assert found.customer_details.email == "owner@example.com"
    intent = found.payment_intent
    assert (intent.status, intent.amount_received) == ("succeeded", 2_500)
    assert (intent.customer, intent.metadata.to_dict()) == (customer.id, {"topup_id": "1"})
    assert (intent.latest_charge.paid, intent.latest_charge.amount) == (True, 2_500)
    assert types_since(client, 5) == [
        "payment_intent.created",
        "charge.succeeded",
        "charge.updated",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]


def test_a_second_click_charges_nothing(fake, session):
    pay(session.url, "4242424242424242")
    before = fake.state()["counts"]
    again = pay(session.url, "4242424242424242")
    page = requests.get(session.url, timeout=10)

    assert again.status_code == 303
    assert fake.state()["counts"] == before
    assert (page.status_code, "Already paid" in page.text) == (200, True)


@pytest.mark.parametrize(
    ("_case", "number", "code", "decline_code", "message"),
    [
        ("declined", "4000 0000 0000 0002", "card_declined", "generic_decline", "was declined"),
        ("no money", "4000000000009995", "card_declined", "insufficient_funds", "insufficient"),
        ("expired", "4000000000000069", "expired_card", None, "has expired"),
        ("no number", "1234", "incorrect_number", None, "number is incorrect"),
        ("nothing", "", "incorrect_number", None, "number is incorrect"),
        ("mistyped", "4242424242424241", "incorrect_number", None, "number is incorrect"),
        ("a real card", "4111111111111111", "card_declined", "test_mode_live_card", "non test"),
        ("markup", "<script>", "incorrect_number", None, "number is incorrect"),
    ],
)
def test_a_refused_card_leaves_the_session_open(
    fake, client, session, _case, number, code, decline_code, message
):
    answer = pay(session.url, number)
    found = client.v1.checkout.sessions.retrieve(session.id, params={"expand": ["payment_intent"]})
    error = found.payment_intent.last_payment_error

    assert answer.status_code == 402
    assert re.search(rf'role="alert">[^<]*{message}', answer.text)
    assert "<script>" not in answer.text
    assert (found.status, found.payment_status) == ("open", "unpaid")
    assert found.payment_intent.status == "requires_payment_method"
    assert (error.code, getattr(error, "decline_code", None)) == (code, decline_code)
    assert fake.count("balance_transaction") == 0
    assert types_since(client, 2) == ["charge.failed", "payment_intent.payment_failed"]


def test_after_a_refusal_another_card_pays_once(fake, client, session):
    pay(session.url, "4000000000000002")
    pay(session.url, "5555555555554444")
    found = client.v1.checkout.sessions.retrieve(session.id)

    assert found.payment_status == "paid"
    assert fake.count("payment_intent") == 1
    assert fake.count("charge") == 2
    assert fake.count("balance_transaction") == 1
    intent = client.v1.payment_intents.retrieve(found.payment_intent)
    assert intent.last_payment_error is None


def test_a_session_can_be_expired_once_and_not_paid_then(fake, client, session):
    expired = client.v1.checkout.sessions.expire(session.id)
    with pytest.raises(stripe.InvalidRequestError, match=r"status of `expired`"):
        client.v1.checkout.sessions.expire(session.id)
    answer = pay(session.url, "4242424242424242")

    assert (expired.status, expired.url) == ("expired", None)
    assert (answer.status_code, "has expired" in answer.text) == (410, True)
    assert fake.count("charge") == 0
    assert types_since(client, 1) == ["checkout.session.expired"]


def test_a_paid_session_cannot_be_expired(fake, client, session):
    fake.order(f"checkout/{session.id}/pay")
    with pytest.raises(stripe.InvalidRequestError, match=r"status of `complete`"):
        client.v1.checkout.sessions.expire(session.id)


def test_time_expires_sessions(fake, client, session_params):
    session_params["expires_at"] = int(time.time()) + 1_860
    session = client.v1.checkout.sessions.create(params=session_params)
    fake.order("clock", offset_s=1_700)
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"

    fake.order("clock", offset_s=1_900)
    assert client.v1.checkout.sessions.retrieve(session.id).status == "expired"
    assert types_since(client, 1) == ["checkout.session.expired"]


def test_expiry_ends_a_payment_that_was_tried(fake, client, session):
    pay(session.url, "4000000000000002")
    client.v1.checkout.sessions.expire(session.id)
    intent = client.v1.payment_intents.list().data[0]

    assert (intent.status, intent.cancellation_reason) == ("canceled", "expired")


def test_a_delayed_payment_completes_unpaid_and_is_settled_later(fake, client, session):
    fake.order(f"checkout/{session.id}/pay", delayed=True)
    waiting = client.v1.checkout.sessions.retrieve(session.id)
    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    assert fake.count("balance_transaction") == 0

    fake.order(f"checkout/{session.id}/settle", succeeds=True)
    paid = client.v1.checkout.sessions.retrieve(session.id)

    assert paid.payment_status == "paid"
    assert fake.count("balance_transaction") == 1
    assert types_since(client, 1) == ["checkout.session.async_payment_succeeded"]


def test_a_delayed_payment_can_fail(fake, client, session):
    fake.order(f"checkout/{session.id}/pay", delayed=True)
    fake.order(f"checkout/{session.id}/settle", succeeds=False)
    failed = client.v1.checkout.sessions.retrieve(session.id)

    assert (failed.status, failed.payment_status) == ("complete", "unpaid")
    assert fake.count("balance_transaction") == 0
    assert types_since(client, 1) == ["checkout.session.async_payment_failed"]


def test_line_items_are_listed(client, session):
    lines = client.v1.checkout.sessions.line_items.list(session.id).data

    assert [(line.description, line.quantity, line.amount_total) for line in lines] == [
        ("Prediction credit", 1, 2_500)
    ]


def test_sessions_are_found_by_customer_payment_and_status(fake, client, session, customer):
    fake.order(f"checkout/{session.id}/pay")
    paid = client.v1.checkout.sessions.retrieve(session.id)

    def ids(**params) -> list[str]:
        return [item.id for item in client.v1.checkout.sessions.list(params=params).data]

    assert ids(customer=customer.id) == [session.id]
    assert ids(payment_intent=paid.payment_intent) == [session.id]
    assert ids(status="complete") == [session.id]
    assert ids(status="open") == []


def test_unknown_sessions_have_no_page(fake):
    assert requests.get(f"{fake.url}/checkout/cs_test_none", timeout=10).status_code == 404
    assert pay(f"{fake.url}/checkout/cs_test_none", "4242424242424242").status_code == 404


PRICE = {"currency": "usd", "unit_amount": 2_500, "product_data": {"name": "Credit"}}


@pytest.mark.parametrize(
    ("_case", "changes", "param"),
    [
        ("no mode", {"mode": None}, "mode"),
        ("other mode", {"mode": "subscription"}, None),
        ("no address to return to", {"success_url": None}, "success_url"),
        ("script as address", {"success_url": "javascript:alert(1)"}, "success_url"),
        ("no address", {"cancel_url": "nowhere"}, "cancel_url"),
        ("unknown customer", {"customer": "cus_1"}, "customer"),
        ("two payers", {"customer_email": "a@example.com"}, "customer_email"),
        ("nothing to pay", {"line_items": None}, "line_items"),
        ("too little", {"line_items": [{"price_data": PRICE | {"unit_amount": 49}}]}, None),
        ("too much", {"line_items": [{"price_data": PRICE, "quantity": 40_000}]}, None),
        (
            "negative",
            {"line_items": [{"price_data": PRICE | {"unit_amount": -5}}]},
            "line_items[0][price_data][unit_amount]",
        ),
        (
            "none of it",
            {"line_items": [{"price_data": PRICE, "quantity": 0}]},
            "line_items[0][quantity]",
        ),
        (
            "unknown currency",
            {"line_items": [{"price_data": PRICE | {"currency": "xyz"}}]},
            "line_items[0][price_data][currency]",
        ),
        (
            "two currencies",
            {"line_items": [{"price_data": PRICE}, {"price_data": PRICE | {"currency": "eur"}}]},
            "line_items",
        ),
        ("ends too soon", {"expires_at": int(time.time()) + 600}, "expires_at"),
        ("ends too late", {"expires_at": int(time.time()) + 1_000_000}, "expires_at"),
        ("tax", {"automatic_tax": {"enabled": True}}, None),
        ("fee for a platform", {"payment_intent_data": {"application_fee_amount": 5}}, None),
    ],
)
def test_bad_sessions_are_refused_and_not_stored(
    fake, client, session_params, _case, changes, param
):
    before = fake.state()["counts"]
    params = {
        name: value for name, value in (session_params | changes).items() if value is not None
    }
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.checkout.sessions.create(params=params)

    assert caught.value.param == param
    assert fake.state()["counts"] == before
