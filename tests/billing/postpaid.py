"""An account that pays later, for the tests of everything about it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from billing.models import LedgerAccount, MeterSeal, PostpaidTerms
from billing.selectors.ledger import check_invariants
from billing.selectors.meter import HOUR, read_clock
from billing.services import postpaid as service
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, reserve, settle
from tests.billing.metered_stripe import MeteredStripe

LIMIT_NANOS = 20_000_000_000


def install(monkeypatch: pytest.MonkeyPatch, stripe: Any) -> None:
    """Make this the Stripe that all services call."""
    for name, module in list(sys.modules.items()):
        if name.startswith("billing.") and getattr(module, "get_stripe", None) is not None:
            monkeypatch.setattr(module, "get_stripe", lambda: stripe)


@pytest.fixture
def stripe(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> MeteredStripe:
    """Stripe's meters in memory, which all services ask; for files that import it by name."""
    stand_in = MeteredStripe(now=read_clock())
    install(monkeypatch, stand_in)
    return stand_in


def agree(shop: Shop, admin: User, limit_nanos: int = LIMIT_NANOS) -> PostpaidTerms:
    """Terms that were asked for and approved."""
    actor = Actor(user=admin)
    terms = service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=limit_nanos)
    return service.approve_terms(
        actor, terms, limit_nanos=limit_nanos, due_days=14, reason="a good customer"
    )


def buy(shop: Shop, count: int = 1, **changes: object) -> list[UUID]:
    """So many predictions, each with its own hold, booked in one statement."""
    held = reserve(*(asked(shop.consumer.pk, PRICE_NANOS) for _ in range(count)))
    assert {outcome for _, _, outcome in held} == {"held"}
    items = [shop.item(hold_id, **changes) for hold_id, _, _ in held]
    assert settle(*items) == ["settled"] * count
    return [hold_id for hold_id, _, _ in held]


def receivable(shop: Shop) -> LedgerAccount:
    return LedgerAccount.objects.get(kind="receivable", holder=shop.consumer)


def age(hours: float, *, only: list[UUID] | None = None) -> None:
    """Let what was booked so far have been booked so long ago, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER USER")
        cursor.execute(
            "UPDATE billing_transfer SET created_at = created_at - %s"
            " WHERE kind IN ('usage', 'usage_reversal')"
            " AND NOT EXISTS (SELECT 1 FROM billing_meteredtransfer m WHERE m.transfer_id = id)"
            " AND (%s::uuid[] IS NULL OR id IN (SELECT transfer_id FROM billing_usageevent"
            " WHERE prediction_id = ANY (%s)))",
            [timedelta(hours=hours), only, only],
        )
        cursor.execute("ALTER TABLE billing_transfer ENABLE TRIGGER USER")


def begin_earlier(terms: PostpaidTerms, stripe: MeteredStripe, hours: float) -> None:
    """Let the terms have been agreed so long ago, here and at Stripe."""
    moment = read_clock() - timedelta(hours=hours)
    PostpaidTerms.objects.filter(pk=terms.pk).update(activated_at=moment)
    for pk, one in stripe.subscriptions.items():
        stripe.subscriptions[pk] = replace(one, current_period_start=moment)
    terms.refresh_from_db()


def this_hour() -> datetime:
    return read_clock().replace(minute=0, second=0, microsecond=0)


def reopen_last_hour() -> None:
    """As if the last hour had just ended."""
    MeterSeal.objects.filter(hour=this_hour() - HOUR).delete()


def broken() -> set[str]:
    with transaction.atomic(durable=True):
        found = {one.invariant.name for one in check_invariants() if one.count}
    # No gateway noted these answers, and no worker seals receipts here.
    return found - {"usage-equals-answers", "charges-are-sealed"}
