"""The stand-in for Stripe as a process, two hours ago; and two admins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing.services import stripe_client
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.reconciliation.reconciling import LONG_AGO_S
from tests.factories import UserFactory
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess


@pytest.fixture(scope="package")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    process = FakeStripeProcess(tmp_path_factory.mktemp("stripe"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def fake(_stripe, settings) -> Iterator[FakeStripeProcess]:
    """The stand-in, two hours ago: nothing that it has is on its way any more."""
    _stripe.reset()
    _stripe.order("clock", offset_s=-LONG_AGO_S)
    settings.STRIPE_SECRET_KEY = SECRET_KEY
    settings.STRIPE_WEBHOOK_SECRET = WEBHOOK_SECRET
    settings.STRIPE_API_BASE = _stripe.url
    stripe_client.get_stripe.cache_clear()
    yield _stripe
    stripe_client.get_stripe.cache_clear()


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def second(db: None) -> Actor:
    return Actor(user=UserFactory(email="second@example.com", is_staff=True))
