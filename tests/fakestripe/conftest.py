from __future__ import annotations

from collections.abc import Iterator

import pytest
import stripe

from fakestripe.contract import Contract
from tests.fakestripe.process import SECRET_KEY, FakeStripeProcess, Receiver


@pytest.fixture(scope="session")
def contract(tmp_path_factory) -> Contract:
    return Contract.load(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def _process(tmp_path_factory, receiver) -> Iterator[FakeStripeProcess]:
    process = FakeStripeProcess(tmp_path_factory.mktemp("fakestripe"), webhook_url=receiver.url)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def fake(_process, receiver) -> FakeStripeProcess:
    """A running stand-in that remembers nothing."""
    _process.reset()
    receiver.clear()
    return _process


@pytest.fixture
def client(fake) -> stripe.StripeClient:
    """The SDK as it comes, pointed at the stand-in; it repeats nothing by itself."""
    return stripe.StripeClient(SECRET_KEY, base_addresses={"api": fake.url}, max_network_retries=0)


@pytest.fixture
def customer(client) -> stripe.Customer:
    return client.v1.customers.create(params={"email": "owner@example.com"})


@pytest.fixture
def session_params(customer):
    return {
        "mode": "payment",
        "customer": customer.id,
        "client_reference_id": "topup-1",
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": "usd",
                    "unit_amount": 2500,
                    "product_data": {"name": "Prediction credit"},
                },
            }
        ],
        "metadata": {"topup_id": "1"},
        "payment_intent_data": {"metadata": {"topup_id": "1"}},
        "success_url": "https://shop.example.com/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example.com/cancelled",
    }


@pytest.fixture
def session(client, session_params) -> stripe.checkout.Session:
    return client.v1.checkout.sessions.create(params=session_params)
