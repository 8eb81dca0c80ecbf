"""The gateway to Stripe, by the real SDK, against the running stand-in."""

from __future__ import annotations

import pickle
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import stripe

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.stripe import calls
from billing.stripe import client as stripe_client
from billing.stripe.client import CheckoutSession, StripeConfig, StripeGateway, make_client
from fakestripe.contract import Contract
from tests.billing.stripe_client.traffic import (
    ACCOUNT_ID,
    OTHER_TOPUP_ID,
    TOPUP_ID,
    ContractClient,
    open_page,
    pay,
)
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, wait_until


def test_a_top_up_from_the_page_to_the_balance(fake, gateway, traffic, customer_id):
    begin = datetime.now(UTC) - timedelta(seconds=5)
    opened = open_page(gateway, customer_id)
    assert (opened.status, opened.payment_status) == ("open", "unpaid")
    assert opened.payment_intent_id is None
    assert timedelta(hours=23) < opened.expires_at - begin < timedelta(hours=25)

    answer = pay(opened)
    paid = gateway.retrieve_checkout_session(opened.id)
    intent = gateway.retrieve_payment_intent(paid.payment_intent_id)
    [movement] = gateway.list_balance_transactions(
        created_from=begin, created_until=begin + timedelta(minutes=5)
    )

    assert answer.headers["Location"] == (
        f"https://shop.example.com/topups/1?session_id={opened.id}"
    )
    assert paid == CheckoutSession(
        id=opened.id,
        url=None,
        expires_at=opened.expires_at,
        status="complete",
        payment_status="paid",
        mode="payment",
        amount_subtotal=2_500,
        amount_tax=0,
        amount_total=2_500,
        currency="usd",
        customer=customer_id,
        metadata={"topup_id": str(TOPUP_ID)},
        payment_intent_id=intent.id,
        setup_intent_id=None,
    )
    assert (intent.status, intent.amount, intent.amount_received) == ("succeeded", 2_500, 2_500)
    assert (intent.currency, intent.customer) == ("usd", customer_id)
    assert intent.metadata == {"topup_id": str(TOPUP_ID)}
    assert (movement.type, movement.source) == ("charge", intent.latest_charge_id)
    assert (movement.amount, movement.fee, movement.net) == (2_500, 103, 2_397)
    assert dict(traffic.seen) == {
        ("POST", "/v1/customers"): 1,
        ("POST", "/v1/checkout/sessions"): 1,
        ("GET", "/v1/checkout/sessions/{session}"): 1,
        ("GET", "/v1/payment_intents/{intent}"): 1,
        ("GET", "/v1/balance_transactions"): 1,
    }


def test_the_customer_stands_for_the_account(fake, gateway):
    plain = gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")
    [stored] = fake.state()["objects"]["customer"]

    assert (stored["id"], stored["email"]) == (plain, None)
    assert stored["metadata"] == {"account_id": str(ACCOUNT_ID)}


def test_the_same_call_twice_has_one_effect(fake, gateway, customer_id):
    first = open_page(gateway, customer_id)
    second = open_page(gateway, customer_id)

    assert second == first
    assert fake.count("checkout.session") == 1


def test_a_lost_answer_has_one_effect(fake, gateway, customer_id):
    fake.order("faults", kind="drop_after_effect", path="/v1/checkout/sessions", times=2)
    opened = open_page(gateway, customer_id)

    assert fake.state()["faults"] == []
    assert [item["id"] for item in fake.state()["objects"]["checkout.session"]] == [opened.id]


def test_after_three_lost_answers_the_next_call_still_finds_the_one_effect(
    fake, gateway, customer_id
):
    fake.order("faults", kind="drop_after_effect", path="/v1/checkout/sessions", times=3)
    with pytest.raises(StripeUnavailableError) as caught:
        open_page(gateway, customer_id)
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 5)
    assert fake.count("checkout.session") == 1

    opened = open_page(gateway, customer_id)

    assert [item["id"] for item in fake.state()["objects"]["checkout.session"]] == [opened.id]


def test_without_an_own_key_a_lost_answer_would_have_two_effects(fake, config):
    # Why every call has a key: the one the SDK makes up does not outlive the call.
    client = make_client(config)
    fake.order("faults", kind="drop_after_effect", times=3)
    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create(params={"name": "a"})
    client.v1.customers.create(params={"name": "a"})

    assert fake.count("customer") == 2


def test_the_effect_survives_a_kill_of_the_other_side(fake, gateway, customer_id):
    fake.order("faults", kind="drop_after_effect", path="/v1/checkout/sessions", times=3)
    with pytest.raises(StripeUnavailableError):
        open_page(gateway, customer_id)
    fake.kill()
    fake.start()

    opened = open_page(gateway, customer_id)

    assert [item["id"] for item in fake.state()["objects"]["checkout.session"]] == [opened.id]


def test_a_refused_card_leaves_the_page_open_for_another(gateway, customer_id):
    opened = open_page(gateway, customer_id)

    assert pay(opened, "4000 0000 0000 0002").status_code == 402
    refused = gateway.retrieve_checkout_session(opened.id)
    intent = gateway.retrieve_payment_intent(refused.payment_intent_id)
    assert (refused.status, refused.payment_status) == ("open", "unpaid")
    assert (intent.status, intent.amount_received) == ("requires_payment_method", 0)

    assert pay(opened).status_code == 303
    assert gateway.retrieve_checkout_session(opened.id).payment_status == "paid"


def test_a_delayed_payment_is_complete_before_it_is_paid(fake, gateway, customer_id):
    opened = open_page(gateway, customer_id)
    fake.order(f"checkout/{opened.id}/pay", delayed=True)
    waiting = gateway.retrieve_checkout_session(opened.id)
    fake.order(f"checkout/{opened.id}/settle", succeeds=True)
    settled = gateway.retrieve_checkout_session(opened.id)

    assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
    assert (settled.status, settled.payment_status) == ("complete", "paid")


def test_a_page_expires_on_order_and_by_time(fake, gateway, customer_id):
    first = open_page(gateway, customer_id)
    second = open_page(gateway, customer_id, OTHER_TOPUP_ID)
    closed = gateway.expire_checkout_session(first.id, idempotency_key="expire:1")
    fake.order("clock", offset_s=24 * 3_600 + 5)

    assert (closed.status, closed.url, closed.payment_status) == ("expired", None, "unpaid")
    assert gateway.retrieve_checkout_session(second.id).status == "expired"
    assert pay(first).status_code == 410
    assert pay(second).status_code == 410
    assert fake.count("charge") == 0


def test_a_page_is_found_again_by_its_top_up(fake, gateway, customer_id):
    open_page(gateway, customer_id, OTHER_TOPUP_ID)
    opened = open_page(gateway, customer_id)
    missing = UUID("01930000-0000-7000-8000-000000000003")

    assert gateway.find_checkout_session(topup_id=TOPUP_ID, customer_id=customer_id) == opened
    assert gateway.find_checkout_session(topup_id=missing, customer_id=customer_id) is None


def test_part_of_a_payment_is_given_back_once(fake, gateway, customer_id):
    opened = open_page(gateway, customer_id)
    pay(opened)
    intent_id = gateway.retrieve_checkout_session(opened.id).payment_intent_id

    def refund():
        return gateway.create_refund(
            payment_intent_id=intent_id,
            amount_cents=1_000,
            metadata={"topup_id": str(TOPUP_ID)},
            idempotency_key="refund:1",
        )

    assert refund() == refund()
    assert (refund().amount, refund().status) == (1_000, "succeeded")
    assert fake.count("refund") == 1


@pytest.mark.parametrize(
    ("_case", "kind", "times"),
    [
        ("a limit is not repeated by the SDK", "rate_limit", 1),
        ("a lock", "lock_timeout", 1),
        ("the first call still runs", "conflict", 3),
        ("down", "unavailable", 3),
        ("cut off", "reset", 3),
    ],
)
def test_what_may_work_later_is_unavailable(fake, gateway, _case, kind, times):
    fake.order("faults", kind=kind, times=times)
    with pytest.raises(StripeUnavailableError) as caught:
        gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")

    assert (caught.value.code, caught.value.http_status) == ("stripe_unavailable", 503)
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 5)
    assert fake.state()["faults"] == []
    assert fake.count("customer") == 0


@pytest.mark.parametrize("kind", ["unavailable", "conflict", "reset"])
def test_two_short_failures_are_not_noticed(fake, gateway, kind):
    fake.order("faults", kind=kind, times=2)
    gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")

    assert fake.count("customer") == 1


def test_nobody_listening_is_unavailable(config):
    gateway = StripeGateway(StripeConfig(SECRET_KEY, WEBHOOK_SECRET, "http://127.0.0.1:9"))
    with pytest.raises(StripeUnavailableError):
        gateway.retrieve_checkout_session("cs_test_1")


def test_a_slow_answer_is_given_up(fake, config, monkeypatch):
    monkeypatch.setattr(stripe_client, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(stripe_client, "RETRIES_MAX", 0)
    fake.order("faults", kind="delay", delay_s=1)
    with pytest.raises(StripeUnavailableError):
        StripeGateway(config).create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")
    # It was not lost: whoever asks again with the same key gets the one customer.
    wait_until(lambda: fake.count("customer") == 1)
    StripeGateway(config).create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")
    assert fake.count("customer") == 1


def test_a_500_that_stays_is_unavailable_and_had_its_effect(fake, gateway):
    fake.order("faults", kind="error_after_effect")
    for _ in range(2):
        with pytest.raises(StripeUnavailableError):
            gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1")

    assert fake.count("customer") == 1


@pytest.mark.parametrize(
    ("_case", "call", "code"),
    [
        ("unknown page", lambda it: it.retrieve_checkout_session("cs_1"), "resource_missing"),
        ("unknown customer", lambda it: open_page(it, "cus_1"), "resource_missing"),
        (
            "no address",
            lambda it: it.create_customer(
                account_id=ACCOUNT_ID, email="nobody", idempotency_key="k1"
            ),
            "email_invalid",
        ),
    ],
)
def test_what_will_never_work_is_refused(fake, gateway, _case, call, code):
    with pytest.raises(StripeRefusedError) as caught:
        call(gateway)

    assert (caught.value.code, caught.value.http_status) == ("stripe_refused", 502)
    assert caught.value.retryable is False
    assert caught.value.params["stripe_code"] == code
    assert caught.value.params["stripe_request_id"].startswith("req_")
    assert "nobody" not in caught.value.detail
    assert fake.state()["counts"] == {}


def test_one_key_for_two_purposes_is_refused(fake, gateway, customer_id):
    open_page(gateway, customer_id)
    with pytest.raises(StripeRefusedError):
        open_page(gateway, customer_id, amount_cents=2_600)

    assert fake.count("checkout.session") == 1


def test_a_wrong_key_is_refused_and_not_told(fake):
    secret = "sk_test_of_somebody_else_entirely"
    gateway = StripeGateway(StripeConfig(secret, WEBHOOK_SECRET, fake.url))
    with pytest.raises(StripeRefusedError) as caught:
        gateway.retrieve_checkout_session("cs_test_1")

    assert secret[8:] not in str(caught.value)
    assert secret[8:] not in str(caught.value.params)


def test_events_that_nobody_took_are_found(fake, gateway, receiver, customer_id):
    receiver.wait_for(1)
    fake.order("webhooks", behaviour="never", type="checkout.session.completed")
    opened = open_page(gateway, customer_id)
    pay(opened)
    receiver.wait_for(5)
    wait_until(lambda: all(d["state"] != "pending" for d in fake.state()["deliveries"]))

    def undelivered(*types: str):
        return gateway.list_undelivered_events(
            types=types, created_from=datetime.now(UTC) - timedelta(days=1)
        )

    [event] = undelivered("checkout.session.completed", "charge.succeeded")
    assert (event.type, event.object_id) == ("checkout.session.completed", opened.id)
    assert event.payload["data"]["object"]["payment_status"] == "paid"
    assert undelivered("charge.succeeded") == []


def test_more_types_than_stripe_takes_at_once_are_asked_for(fake, gateway, receiver):
    fake.order("webhooks", behaviour="never", type="customer.created", times=2)
    for number in range(2):
        gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key=f"k{number}")
        fake.order("clock", advance_s=10)
    others = [f"charge.other_{number}" for number in range(40)]
    since = datetime.now(UTC) - timedelta(days=1)
    for types in (["customer.created", *others], [*others, "v2.core.x", "customer.created"]):
        first, second = gateway.list_undelivered_events(types=types, created_from=since)
        assert first.created > second.created

    assert gateway.list_undelivered_events(types=["v2.core.x"], created_from=since) == []


def test_a_webhook_of_the_stand_in_passes_the_guard(fake, gateway, receiver, customer_id):
    [delivery] = receiver.wait_for(1)
    event = gateway.verify_webhook(delivery.payload, delivery.signature)

    assert (event.type, event.object_id) == ("customer.created", customer_id)


def test_long_lists_are_read_to_the_end_or_refused(fake, gateway, customer_id, monkeypatch):
    begin = datetime.now(UTC) - timedelta(seconds=5)
    for number in range(5):
        session = open_page(gateway, customer_id, idempotency_key=f"k{number}")
        fake.order(f"checkout/{session.id}/pay")
    period = {"created_from": begin, "created_until": begin + timedelta(minutes=5)}
    assert len(gateway.list_balance_transactions(**period)) == 5

    monkeypatch.setattr(calls, "LIST_SIZE_MAX", 4)

    with pytest.raises(StripeRefusedError, match="too many movements"):
        gateway.list_balance_transactions(**period)
    assert (
        gateway.list_balance_transactions(
            created_from=begin - timedelta(hours=2), created_until=begin
        )
        == []
    )


def test_one_gateway_serves_many_threads(fake, config):
    gateway = StripeGateway(config)
    ids: list[str] = []

    def create() -> None:
        ids.append(gateway.create_customer(account_id=ACCOUNT_ID, email="", idempotency_key="k1"))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert fake.count("customer") == 1


def test_the_contract_notices_what_breaks_it(fake, config, folder):
    # The negative control of `traffic`: it must not pass everything.
    traffic = ContractClient(Contract.load(folder))
    client = make_client(config, http_client=traffic)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create(params={"bogus": "1"})
    assert traffic.violations == ["request /v1/customers: Received unknown parameter: bogus"]

    traffic.violations.clear()
    traffic.tamper = lambda content: content.replace(b'"livemode": false', b'"livemode": "no"')
    client.v1.customers.create(params={"name": "a"})

    assert len(traffic.violations) == 1
    assert traffic.violations[0].startswith("answer /v1/customers: livemode:")


def test_every_setting_of_the_client_is_explicit(config):
    client = make_client(config)
    options = client._requestor._options

    assert options.max_network_retries == 2
    assert options.stripe_version == stripe.api_version == "2026-10-28.endive"
    assert options.base_addresses["api"] == config.api_base
    assert client._requestor._client._timeout == 10
    real = make_client(StripeConfig("sk_test_1", "whsec_1"))
    assert real._requestor._options.base_addresses["api"] == "https://api.stripe.com"


def test_secrets_do_not_show(config):
    assert SECRET_KEY not in repr(config)
    assert WEBHOOK_SECRET not in repr(config)


def test_our_errors_travel_through_a_queue():
    error = StripeUnavailableError(retry_after_s=5)
    assert pickle.loads(pickle.dumps(error)).code == "stripe_unavailable"
