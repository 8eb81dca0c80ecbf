"""The stand-in for Stripe as a process, two hours ago; and two admins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.reconciliation.reconciling import LONG_AGO_S
from tests.billing.stand_in import asked_of, running
from tests.factories import UserFactory
from tests.fakestripe.process import FakeStripeProcess


@pytest.fixture(scope="package")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    with running(tmp_path_factory.mktemp("stripe")) as process:
        yield process


@pytest.fixture
def fake(_stripe, settings) -> Iterator[FakeStripeProcess]:
    """The stand-in, two hours ago: nothing that it has is on its way any more."""
    _stripe.reset()
    _stripe.order("clock", offset_s=-LONG_AGO_S)
    with asked_of(_stripe, settings):
        yield _stripe


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def second(db: None) -> Actor:
    return Actor(user=UserFactory(email="second@example.com", is_staff=True))
