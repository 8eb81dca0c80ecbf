"""What is measured of billing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import StripeEvent, UsageEvent
from billing.services.receipt import seal_receipts
from billing.services.status import LATE_AFTER, probe_billing
from marketplace.core.ids import lowest_id
from marketplace.models import StatusDay, Vital
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle

pytestmark = pytest.mark.django_db(transaction=True)

State = StatusDay.State


@pytest.fixture
def ledger(transactional_db: None) -> Vital:
    return Vital.objects.create(name="ledger", at=timezone.now(), state="good")


def test_without_a_check_of_the_ledger_nothing_is_known() -> None:
    assert probe_billing() is State.UNKNOWN


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        ("good", timedelta(hours=2, minutes=59), State.UP),
        ("good", timedelta(hours=3, minutes=1), State.UNKNOWN),
        ("bad", timedelta(minutes=1), State.DEGRADED),
    ],
)
def test_the_ledgers_last_check(ledger, state, age, expected) -> None:
    Vital.objects.update(state=state, at=timezone.now() - age)

    assert probe_billing() is expected


@pytest.mark.parametrize(
    ("state", "beyond_s", "expected"),
    [
        ("received", -5, State.UP),
        ("received", 5, State.DEGRADED),
        # A person looks at these; they hold nothing up.
        ("failed", 5, State.UP),
        ("applied", 5, State.UP),
    ],
)
def test_an_event_that_waits_too_long(ledger, state, beyond_s, expected) -> None:
    StripeEvent.objects.create(
        id="evt_1", type="x", payload={}, state=state, created_at=timezone.now()
    )
    at = timezone.now() - LATE_AFTER - timedelta(seconds=beyond_s)
    StripeEvent.objects.update(received_at=at)

    assert probe_billing() is expected


@pytest.mark.parametrize(("beyond_s", "expected"), [(-30, State.UP), (30, State.DEGRADED)])
def test_a_charge_that_is_not_sealed(
    ledger, settings: Any, shop: Shop, fund: Callable[..., None], beyond_s, expected
) -> None:
    settings.RECEIPT_KEY = encode_base64(signature.generate_signing_key())
    at = timezone.now() - LATE_AFTER - timedelta(seconds=beyond_s)
    fund(10 * PRICE_NANOS)
    booked = shop.item(lowest_id(at), hold_id=str(hold(shop)), occurred_at=at.isoformat())
    assert settle(booked) == ["settled"]
    assert UsageEvent.objects.get().occurred_at == at

    assert probe_billing() is expected

    seal_receipts()
    assert probe_billing() is State.UP
