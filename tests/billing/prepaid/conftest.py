"""The stand-in for Stripe as a process, an account with a customer there, and flows of money."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing.services import stripe_client
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing.prepaid.flows import Flows
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess, free_port


@pytest.fixture(scope="package")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    # Nobody listens there: webhooks are lost unless a test says otherwise.
    nowhere = f"http://127.0.0.1:{free_port()}/"
    process = FakeStripeProcess(tmp_path_factory.mktemp("stripe"), webhook_url=nowhere)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def fake(_stripe: FakeStripeProcess, settings) -> Iterator[FakeStripeProcess]:
    _stripe.reset()
    settings.STRIPE_SECRET_KEY = SECRET_KEY
    settings.STRIPE_WEBHOOK_SECRET = WEBHOOK_SECRET
    settings.STRIPE_API_BASE = _stripe.url
    settings.STRIPE_TAX = False
    stripe_client.get_stripe.cache_clear()
    yield _stripe
    stripe_client.get_stripe.cache_clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK does not repeat by itself, which takes its time."""
    monkeypatch.setattr("billing.stripe.client.RETRIES_MAX", 0)
    stripe_client.get_stripe.cache_clear()


@pytest.fixture
def actor(owner: User, account: Account) -> Actor:
    return Actor(user=owner)


@pytest.fixture
def flows(fake: FakeStripeProcess, actor: Actor, account: Account) -> Flows:
    return Flows(fake, actor, account)
