"""The stand-in for Stripe as a process, for tests of everything that asks Stripe.

A file that wants its fixtures imports them by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from billing.services import stripe_client
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess, Receiver


@contextmanager
def running(folder: Path, **how: Any) -> Iterator[FakeStripeProcess]:
    """A stand-in while the block runs."""
    process = FakeStripeProcess(folder, **how)
    process.start()
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def asked_of(process: FakeStripeProcess, settings: Any) -> Iterator[None]:
    """Services ask this stand-in while the block runs."""
    settings.STRIPE_SECRET_KEY = SECRET_KEY
    settings.STRIPE_WEBHOOK_SECRET = WEBHOOK_SECRET
    settings.STRIPE_API_BASE = process.url
    stripe_client.get_stripe.cache_clear()
    yield
    stripe_client.get_stripe.cache_clear()


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Iterator[tuple[FakeStripeProcess, Receiver]]:
    """A stand-in, and who hears its webhooks."""
    receiver = Receiver()
    receiver.start()
    with running(tmp_path_factory.mktemp("stripe"), webhook_url=receiver.url) as process:
        yield process, receiver
    receiver.stop()


@pytest.fixture
def fake(told, settings) -> Iterator[FakeStripeProcess]:
    """The stand-in, empty."""
    process, receiver = told
    process.reset()
    receiver.clear()
    with asked_of(process, settings):
        yield process


@pytest.fixture
def receiver(told) -> Receiver:
    """Who hears the webhooks."""
    return told[1]
