"""What the catalogue is told of prices and use."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import Price
from billing.services.catalogue_facts import tell_prices, tell_use
from billing.services.price import set_price
from marketplace.core import ids
from marketplace.models import AIModel, CatalogueEntry, Membership, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle
from tests.billing.test_ledger import record_answer

pytestmark = pytest.mark.django_db


@pytest.fixture
def actor(shop: Shop) -> Actor:
    user = User.objects.create_user("maker@x.example", "a good long password")
    Membership.objects.create(account=shop.creator, user=user, role="owner")
    return Actor(user=user)


def entry(shop: Shop) -> CatalogueEntry:
    return CatalogueEntry.objects.get(model=shop.version.model_id)


def test_the_catalogue_follows_the_price(shop: Shop, actor: Actor) -> None:
    assert tell_prices() == 1
    assert (entry(shop).price_nanos, entry(shop).price_is_plain) == (PRICE_NANOS, True)
    assert tell_prices() == 0

    model = AIModel.objects.get(pk=shop.version.model_id)
    set_price(actor, model, nanos_per_prediction=5, free_units=10)
    assert tell_prices() == 1
    assert (entry(shop).price_nanos, entry(shop).price_is_plain) == (5, False)


def test_a_price_that_has_not_begun_is_not_told(shop: Shop) -> None:
    tell_prices()
    now = timezone.now()
    later = now + timedelta(days=3)
    Price.objects.filter(account=None).update(valid_until=later)
    Price.objects.create(
        model_id=shop.version.model_id,
        nanos_per_prediction=7 * PRICE_NANOS,
        creator_share_bps=8000,
        valid_from=later,
    )

    assert tell_prices() == 0
    assert entry(shop).price_nanos == PRICE_NANOS


def test_an_offer_to_one_account_is_nobody_elses_business(shop: Shop) -> None:
    tell_prices()
    Price.objects.create(
        model_id=shop.version.model_id,
        account=shop.consumer,
        nanos_per_prediction=1,
        creator_share_bps=8000,
        valid_from=timezone.now() - timedelta(days=1),
    )

    assert tell_prices() == 0
    assert entry(shop).price_nanos == PRICE_NANOS


def test_a_model_without_a_price_has_none(shop: Shop) -> None:
    tell_prices()
    Price.objects.filter(account=None).update(valid_until=timezone.now())

    assert tell_prices() == 1
    assert entry(shop).price_nanos is None


def use(shop: Shop, count: int) -> None:
    for _ in range(count):
        prediction_id = hold(shop)
        record_answer(shop, prediction_id)
        assert settle(shop.item(prediction_id)) == ["settled"]


def change_events(statement: str, *values: object) -> None:
    """Events are append-only: the test, as owner of the table, looks away from the trigger."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE billing_usageevent DISABLE TRIGGER USER")
        cursor.execute(statement, values)
        cursor.execute("ALTER TABLE billing_usageevent ENABLE TRIGGER USER")


def test_the_catalogue_follows_the_use(shop: Shop, fund) -> None:
    fund(10 * PRICE_NANOS)
    assert tell_use() == 0
    use(shop, 3)
    assert tell_use() == 1
    assert entry(shop).predictions_30d == 3
    assert tell_use() == 0

    # What is older is forgotten: the id of an event tells its time.
    old = ids.lowest_id(timezone.now() - timedelta(days=31))
    change_events("UPDATE billing_usageevent SET prediction_id = %s WHERE prediction_id ="
                  " (SELECT prediction_id FROM billing_usageevent LIMIT 1)", old)  # fmt: skip
    tell_use()
    assert entry(shop).predictions_30d == 2


@pytest.mark.parametrize("change", ["account_id = creator_id", "mode = 'test'"])
def test_what_costs_nobody_anything_counts_for_nothing(shop: Shop, fund, change: str) -> None:
    fund(10 * PRICE_NANOS)
    use(shop, 2)
    tell_use()
    assert entry(shop).predictions_30d == 2

    change_events(f"UPDATE billing_usageevent SET {change}")
    tell_use()
    assert entry(shop).predictions_30d == 0
