"""Every operation that the gateway can send is in Stripe's description, and held to it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests

from billing.stripe.client import StripeGateway
from fakestripe.errors import ApiError
from tests.billing.stripe_client.test_connect import link, open_account, reverse, transfer
from tests.billing.stripe_client.test_payments import charged, refund, save_card
from tests.billing.stripe_client.traffic import ACCOUNT_ID, TOPUP_ID, ContractClient, open_page
from tests.fakestripe.process import SECRET_KEY, FakeStripeProcess

# Methods that send nothing.
SILENT = {"verify_webhook"}

OPERATIONS = {
    ("DELETE", "/v1/subscriptions/{subscription_exposed_id}"),
    ("GET", "/v1/balance"),
    ("GET", "/v1/balance_transactions"),
    ("GET", "/v1/balance_transactions/{id}"),
    ("GET", "/v1/billing/meters"),
    ("GET", "/v1/billing/meters/{id}/event_summaries"),
    ("GET", "/v1/charges"),
    ("GET", "/v1/charges/{charge}"),
    ("GET", "/v1/checkout/sessions"),
    ("GET", "/v1/checkout/sessions/{session}"),
    ("GET", "/v1/credit_notes"),
    ("DELETE", "/v1/customers/{customer}/tax_ids/{id}"),
    ("GET", "/v1/customers/{customer}/payment_methods"),
    ("GET", "/v1/customers/{customer}/tax_ids"),
    ("GET", "/v1/disputes"),
    ("GET", "/v1/disputes/{dispute}"),
    ("GET", "/v1/events"),
    ("GET", "/v1/invoice_payments"),
    ("GET", "/v1/invoices"),
    ("GET", "/v1/invoices/{invoice}"),
    ("GET", "/v1/payment_intents"),
    ("GET", "/v1/payment_intents/{intent}"),
    ("GET", "/v1/payment_methods/{payment_method}"),
    ("GET", "/v1/prices"),
    ("GET", "/v1/radar/early_fraud_warnings"),
    ("GET", "/v1/radar/early_fraud_warnings/{early_fraud_warning}"),
    ("GET", "/v1/refunds"),
    ("GET", "/v1/refunds/{refund}"),
    ("GET", "/v1/setup_intents/{intent}"),
    ("GET", "/v1/subscriptions"),
    ("GET", "/v1/subscriptions/{subscription_exposed_id}"),
    ("GET", "/v1/transfers"),
    ("GET", "/v1/transfers/{id}/reversals"),
    ("GET", "/v1/transfers/{transfer}"),
    ("GET", "/v2/core/accounts/{id}"),
    ("POST", "/v1/billing/meter_event_adjustments"),
    ("POST", "/v1/billing/meter_events"),
    ("POST", "/v1/billing/meters"),
    ("POST", "/v1/billing_portal/sessions"),
    ("POST", "/v1/checkout/sessions"),
    ("POST", "/v1/checkout/sessions/{session}/expire"),
    ("POST", "/v1/credit_notes"),
    ("POST", "/v1/customers"),
    ("POST", "/v1/customers/{customer}"),
    ("POST", "/v1/customers/{customer}/tax_ids"),
    ("POST", "/v1/invoices/{invoice}/mark_uncollectible"),
    ("POST", "/v1/invoices/{invoice}/pay"),
    ("POST", "/v1/payment_intents"),
    ("POST", "/v1/payment_methods/{payment_method}/detach"),
    ("POST", "/v1/prices"),
    ("POST", "/v1/refunds"),
    ("POST", "/v1/subscriptions"),
    ("POST", "/v1/transfers"),
    ("POST", "/v1/transfers/{id}/reversals"),
    ("POST", "/v2/core/account_links"),
    ("POST", "/v2/core/accounts"),
}


class World:
    """One of everything, so that every method has something to be called with."""

    def __init__(self, fake: FakeStripeProcess, gateway: StripeGateway, customer_id: str) -> None:
        self.fake, self.gateway, self.customer_id = fake, gateway, customer_id
        now = datetime.now(UTC)
        self.period: Any = {
            "created_from": now - timedelta(hours=1),
            "created_until": now + timedelta(hours=1),
        }
        fake.order("balance/move", amount=100_000)
        self.page = open_page(gateway, customer_id)
        self.charge = charged(gateway, customer_id)
        [self.card] = gateway.list_cards(customer_id)
        self.setup = fake.state()["objects"]["setup_intent"][0]["id"]
        self.refund = refund(gateway, self.charge)
        self.warning_id = fake.order(f"charges/{self.charge.id}/fraud_warning")["id"]
        self.dispute_id = fake.order(f"charges/{self.charge.id}/dispute")["id"]
        self.account = open_account(gateway)
        fake.order(f"accounts/{self.account.id}/onboard")
        self.transfer = transfer(gateway, self.account)
        self.meter = gateway.ensure_meter(event_name="nanos", display_name="Nanos")
        self.price = self.make_price()
        self.subscription = self.subscribe()
        self.report("use:0")
        fake.order("clock", advance_s=35 * 86_400)
        fake.order("clock", advance_s=3_700)
        self.invoice = gateway.list_invoices(customer_id=customer_id)[0]
        self.report("use:1")

    def make_price(self) -> Any:
        return self.gateway.ensure_metered_price(
            meter_id=self.meter.id,
            lookup_key="nanos",
            unit_amount_decimal=Decimal("0.0000001"),
            product_name="Prediction credit",
        )

    def subscribe(self) -> Any:
        return self.gateway.create_subscription(
            customer_id=self.customer_id,
            price_id=self.price.id,
            metadata={"account_id": "1"},
            idempotency_key="subscription:1",
        )

    def report(self, identifier: str) -> bool:
        now = requests.get(f"{self.fake.url}/_test/clock", timeout=10).json()["now"]
        return self.gateway.send_meter_event(
            event_name="nanos",
            customer_id=self.customer_id,
            value=3_000_000_000,
            identifier=identifier,
            occurred_at=datetime.fromtimestamp(now, UTC),
        )


def charge_again(gateway: StripeGateway, world: World) -> str:
    return gateway.charge_card(
        customer_id=world.customer_id,
        payment_method_id=world.card.id,
        amount_cents=500,
        metadata={},
        idempotency_key="c:13",
    ).id


def pay_open(gateway: StripeGateway, world: World) -> object:
    invoice = gateway.retrieve_invoice(world.invoice.id)
    # It was given up before, and can be paid all the same.
    assert invoice.status == "uncollectible"
    gateway.set_default_card(
        customer_id=world.customer_id,
        payment_method_id=world.card.id,
        idempotency_key="c:14",
    )
    return gateway.pay_invoice(invoice.id, idempotency_key="c:15")


HOUR = datetime(2026, 11, 21, 4, tzinfo=UTC)
CALLS: dict[str, Callable[[StripeGateway, World], object]] = {
    "cancel_meter_event": lambda it, its: it.cancel_meter_event(
        event_name="nanos", identifier="use:1", idempotency_key="c:1"
    ),
    "cancel_subscription": lambda it, its: it.cancel_subscription(
        its.subscription.id, idempotency_key="c:2"
    ),
    "charge_card": lambda it, its: it.charge_card(
        customer_id=its.customer_id,
        payment_method_id=its.card.id,
        amount_cents=100,
        metadata={},
        idempotency_key="c:3",
    ),
    "create_account_link": lambda it, its: link(it, its.account),
    "create_checkout_session": lambda it, its: open_page(
        it, its.customer_id, save_card=True, is_taxed=True, idempotency_key="c:4"
    ),
    "create_creator_account": lambda it, its: open_account(it),
    "create_credit_note": lambda it, its: it.create_credit_note(
        invoice_id=its.invoice.id, amount_cents=1, memo="x", idempotency_key="c:5"
    ),
    "create_customer": lambda it, its: it.create_customer(
        account_id=ACCOUNT_ID, email="a@example.com", idempotency_key="c:6"
    ),
    "create_portal_session": lambda it, its: it.create_portal_session(
        customer_id=its.customer_id, return_url="https://shop.example.com"
    ),
    "create_refund": lambda it, its: it.create_refund(
        payment_intent_id=charge_again(it, its),
        amount_cents=1,
        metadata={"a": "b"},
        idempotency_key="c:7",
    ),
    "create_setup_session": lambda it, its: it.create_setup_session(
        account_id=ACCOUNT_ID,
        customer_id=its.customer_id,
        success_url="https://shop.example.com",
        cancel_url="https://shop.example.com",
        idempotency_key="c:8",
    ),
    "create_subscription": lambda it, its: its.subscribe(),
    "create_transfer": lambda it, its: transfer(it, its.account),
    "detach_card": lambda it, its: it.detach_card(its.card.id, idempotency_key="c:9"),
    "ensure_meter": lambda it, its: it.ensure_meter(event_name="other", display_name="Other"),
    "ensure_metered_price": lambda it, its: its.make_price(),
    "expire_checkout_session": lambda it, its: it.expire_checkout_session(
        open_page(it, its.customer_id, idempotency_key="c:10").id, idempotency_key="c:11"
    ),
    "find_checkout_session": lambda it, its: it.find_checkout_session(
        topup_id=TOPUP_ID, customer_id=its.customer_id
    ),
    "find_invoice_of_payment": lambda it, its: it.find_invoice_of_payment(
        its.charge.payment_intent_id
    ),
    "find_payment_intent": lambda it, its: it.find_payment_intent(
        customer_id=its.customer_id, key="a", value="b"
    ),
    "find_refund": lambda it, its: it.find_refund(
        payment_intent_id=its.charge.payment_intent_id, key="a", value="b"
    ),
    "find_subscription": lambda it, its: it.find_subscription(
        customer_id=its.customer_id, key="account_id", value="1"
    ),
    "list_balance_transactions": lambda it, its: it.list_balance_transactions(**its.period),
    "list_cards": lambda it, its: it.list_cards(its.customer_id),
    "list_charges": lambda it, its: it.list_charges(**its.period),
    "list_disputes": lambda it, its: it.list_disputes(**its.period),
    "list_fraud_warnings": lambda it, its: it.list_fraud_warnings(**its.period),
    "list_invoices": lambda it, its: it.list_invoices(customer_id=its.customer_id, **its.period),
    "list_payment_intents": lambda it, its: it.list_payment_intents(**its.period),
    "list_refunds": lambda it, its: it.list_refunds(**its.period),
    "list_reversals": lambda it, its: it.list_reversals(its.transfer.id),
    "list_transfers": lambda it, its: it.list_transfers(**its.period, transfer_group="payout-1"),
    "list_undelivered_events": lambda it, its: it.list_undelivered_events(
        types=["invoice.paid"], created_from=its.period["created_from"]
    ),
    "mark_invoice_uncollectible": lambda it, its: it.mark_invoice_uncollectible(
        its.invoice.id, idempotency_key="c:16"
    ),
    "pay_invoice": pay_open,
    "retrieve_balance": lambda it, its: it.retrieve_balance(),
    "retrieve_balance_transaction": lambda it, its: it.retrieve_balance_transaction(
        its.charge.balance_transaction_id
    ),
    "retrieve_card": lambda it, its: it.retrieve_card(its.card.id),
    "retrieve_charge": lambda it, its: it.retrieve_charge(its.charge.id),
    "retrieve_checkout_session": lambda it, its: it.retrieve_checkout_session(its.page.id),
    "retrieve_creator_account": lambda it, its: it.retrieve_creator_account(its.account.id),
    "retrieve_dispute": lambda it, its: it.retrieve_dispute(its.dispute_id),
    "retrieve_fraud_warning": lambda it, its: it.retrieve_fraud_warning(its.warning_id),
    "retrieve_invoice": lambda it, its: it.retrieve_invoice(its.invoice.id),
    "retrieve_payment_intent": lambda it, its: it.retrieve_payment_intent(
        its.charge.payment_intent_id
    ),
    "retrieve_refund": lambda it, its: it.retrieve_refund(its.refund.id),
    "retrieve_saved_card": lambda it, its: it.retrieve_saved_card(its.setup),
    "retrieve_subscription": lambda it, its: it.retrieve_subscription(its.subscription.id),
    "retrieve_transfer": lambda it, its: it.retrieve_transfer(its.transfer.id),
    "reverse_transfer": lambda it, its: reverse(it, its.transfer, 1),
    "send_meter_event": lambda it, its: its.report("use:2"),
    "set_default_card": lambda it, its: it.set_default_card(
        customer_id=its.customer_id,
        payment_method_id=save_card(it, its.customer_id, "5555555555554444").id,
        idempotency_key="c:12",
    ),
    "summarize_meter": lambda it, its: it.summarize_meter(
        meter_id=its.meter.id,
        customer_id=its.customer_id,
        start=HOUR,
        end=HOUR + timedelta(hours=1),
    ),
    "update_customer": lambda it, its: [
        it.update_customer(
            its.customer_id,
            name="Acme",
            address={"line1": "1 Main St", "country": "DE"},
            tax_id=tax_id,
            idempotency_key=f"c:{13 + number}",
        )
        for number, tax_id in enumerate([("eu_vat", "DE123456789"), None])
    ],
}


@pytest.fixture
def sent(fake, gateway, traffic, customer_id) -> dict[tuple[str, str], tuple[str, str]]:
    """One request of each operation, after every method was called."""
    world = World(fake, gateway, customer_id)
    # The card goes last, because much needs it.
    for name in sorted(CALLS, key=lambda name: name == "detach_card"):
        CALLS[name](gateway, world)
    return traffic.examples


def public_methods() -> set[str]:
    members = inspect.getmembers(StripeGateway, inspect.isfunction)
    return {name for name, _function in members if not name.startswith("_")}


def test_every_method_is_called():
    assert set(CALLS) | SILENT == public_methods()


def test_every_operation_is_in_the_description_and_refuses_what_is_unknown(
    fake: FakeStripeProcess, sent, traffic: ContractClient
):
    assert set(sent) == OPERATIONS
    for (method, template), (path, text) in sent.items():
        operation, _ids = traffic.contract.find(method, path)
        traffic.contract.parse_input(operation, text)
        bent = with_unknown(text, is_json=operation.media == "application/json")
        with pytest.raises(ApiError, match="unknown parameter: bogus"):
            traffic.contract.parse_input(operation, bent)
        answer = send(fake, method, path, bent, operation.media)
        assert answer.status_code == 400, template
        assert answer.json()["error"]["code"] == "parameter_unknown", template
        assert answer.json()["error"]["param"] == "bogus", template


def with_unknown(text: str, *, is_json: bool) -> str:
    if is_json:
        return json.dumps(json.loads(text) | {"bogus": "1"})
    return f"{text}&bogus=1" if text else "bogus=1"


def send(fake: FakeStripeProcess, method: str, path: str, text: str, media: str):
    headers = {"Authorization": f"Bearer {SECRET_KEY}", "Content-Type": media}
    if method != "POST":
        return requests.request(method, f"{fake.url}{path}?{text}", headers=headers, timeout=10)
    return requests.post(f"{fake.url}{path}", data=text, headers=headers, timeout=10)
