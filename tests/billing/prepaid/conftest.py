"""The stand-in for Stripe as a process, an account with a customer there, and flows of money."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing.services import stripe_client
from embedded import ports
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing.prepaid.flows import Flows
from tests.billing.stand_in import asked_of, running
from tests.fakestripe.process import FakeStripeProcess


@pytest.fixture(scope="package")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    # Nobody listens there: webhooks are lost unless a test says otherwise.
    nowhere = f"http://127.0.0.1:{ports.choose()}/"
    with running(tmp_path_factory.mktemp("stripe"), webhook_url=nowhere) as process:
        yield process


@pytest.fixture
def fake(_stripe: FakeStripeProcess, settings) -> Iterator[FakeStripeProcess]:
    _stripe.reset()
    settings.STRIPE_TAX = False
    with asked_of(_stripe, settings):
        yield _stripe


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
