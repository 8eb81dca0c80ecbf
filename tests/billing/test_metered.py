"""Bookings at prices that meter and count: what is charged, and what refuses to be booked."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from billing.models import Price, UsageCounter, UsageEvent
from billing.services.receipt import seal_receipts
from marketplace.core.ids import new_id
from marketplace.core.receipt import RECEIPT_SQL, assemble
from strongroom import receipts
from strongroom.rating import rate
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import SHARE_BPS, Shop, asked, balances, query, reserve, settle
from tests.billing.test_ledger import broken, record_answer

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
METERED = {"input_token": 40, "compute_ms": 7}
RATES = {"input_token": 3_000_001, "compute_ms": 250_000}


def reprice(shop: Shop, **terms: Any) -> Price:
    """Another price of the shop's model from now on."""
    Price.objects.filter(pk=shop.price.pk).update(valid_until=timezone.now())
    shop.price = Price.objects.create(
        model=shop.model,
        nanos_per_prediction=terms.pop("flat", 0),
        creator_share_bps=SHARE_BPS,
        valid_from=timezone.now(),
        **terms,
    )
    return shop.price


def item(shop: Shop, most_nanos: int, *, units: int = 1, **changes: Any) -> dict:
    """One prediction, and a hold of the most that it can cost."""
    prediction_id = new_id()
    hold_id = None
    if most_nanos:
        ((hold_id, _, outcome),) = reserve(asked(shop.consumer.pk, most_nanos))
        assert outcome == "held"
    record_answer(shop, prediction_id)
    return shop.item(prediction_id, units=units, gross_nanos=most_nanos) | {
        "hold_id": None if hold_id is None else str(hold_id),
        **changes,
    }


def settle_fully(*items: dict) -> list[tuple[str, int]]:
    """Outcome and charge of each."""
    outcomes = settle(*items)
    found = dict(
        UsageEvent.objects.filter(pk__in=[one["prediction_id"] for one in items]).values_list(
            "pk", "gross_nanos"
        )
    )
    return [
        (outcome, found.get(UUID(one["prediction_id"]), -1))
        for one, outcome in zip(items, outcomes, strict=True)
    ]


def test_what_was_metered_is_charged_and_the_rest_stays_reserved(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    price = reprice(shop, flat=5, rates=RATES, minimum_nanos=1)
    given = item(shop, 5_000, metered=METERED)

    assert settle(given) == ["settled"]

    expected = 5 + 121 + 2  # Each kind is rounded up by itself.
    event = UsageEvent.objects.get()
    assert (event.gross_nanos, event.metered, event.position) == (expected, METERED, None)
    assert rate(price.terms, 1, METERED) == expected
    assert balances()["wallet"] == (10_000 - expected, 5_000 - expected)
    assert broken() == set()
    # Told again, with what was charged then.
    assert settle(given) == ["repeated"]


def test_a_charge_above_what_was_reserved_is_refused(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    reprice(shop, flat=5, rates=RATES)
    settle(item(shop, 128, metered=METERED))
    with pytest.raises(DatabaseError, match="costs what its price says"), transaction.atomic():
        settle(item(shop, 127, metered=METERED))


REFUSED = {
    "nothing metered": {},
    "another kind": {"metered": {"input_token": 1, "pixel": 1}},
    "a kind too few": {"metered": {"input_token": 1}},
    "below zero": {"metered": METERED | {"compute_ms": -1}},
    "a fraction": {"metered": METERED | {"compute_ms": 1.5}},
    "huge": {"metered": METERED | {"compute_ms": 10**13}},
    "a text": {"metered": METERED | {"compute_ms": "7"}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_units_that_do_not_fit_the_price_are_not_booked(shop: Shop, fund: Fund, name: str) -> None:
    fund(10_000)
    reprice(shop, rates=RATES)
    given = item(shop, 1_000, **REFUSED[name])

    with pytest.raises(DatabaseError), transaction.atomic():
        settle(given)

    assert not UsageEvent.objects.exists()


def test_units_are_refused_where_the_price_meters_nothing(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    with pytest.raises(DatabaseError, match="costs what its price says"), transaction.atomic():
        settle(item(shop, 1_001, metered=METERED))


def test_tests_are_free_whatever_the_price_meters(shop: Shop) -> None:
    reprice(shop, flat=5, rates=RATES, free_units=1)
    assert settle(item(shop, 0, mode="test")) == ["settled"]
    assert (UsageEvent.objects.get().gross_nanos, UsageCounter.objects.count()) == (0, 0)
    assert broken() == set()


def test_a_month_counts_its_rows_and_the_next_begins_anew(shop: Shop, fund: Fund) -> None:
    fund(100_000)
    reprice(shop, flat=100, free_units=3, tiers=[[10, 5_000]])
    batch = [item(shop, 200, units=2) for _ in range(6)]
    batch.sort(key=lambda one: one["prediction_id"])

    charged = [nanos for _, nanos in settle_fully(*batch)]

    # Rows 0-1 and 2 are free, 3-9 full, from 10 on half.
    assert charged == [0, 100, 200, 200, 200, 100]
    assert list(UsageEvent.objects.order_by("pk").values_list("position", flat=True)) == [
        0, 2, 4, 6, 8, 10,
    ]  # fmt: skip
    assert settle_fully(item(shop, 100)) == [("settled", 50)]
    later = "2027-01-31T23:59:59.999999+00:00"
    assert settle_fully(item(shop, 100, occurred_at=later)) == [("settled", 0)]
    months = UsageCounter.objects.order_by("starts_on").values_list("units", flat=True)
    assert list(months) == [13, 1]
    assert broken() == set()


def test_a_free_one_needs_no_credit_and_the_next_one_is_not_given_away(shop: Shop) -> None:
    reprice(shop, flat=100, free_units=2)

    assert settle_fully(item(shop, 0), item(shop, 0)) == [("settled", 0)] * 2

    given = item(shop, 0)
    with pytest.raises(DatabaseError, match="insufficient_credit"), transaction.atomic():
        settle(given)
    assert UsageCounter.objects.get().units == UsageEvent.objects.count() == 2


def test_a_prediction_whose_hold_is_gone_leaves_no_gap(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    reprice(shop, flat=100, free_units=1)
    lost = item(shop, 100)
    query("SELECT billing_give_back(%s, %s)", [lost["hold_id"]], [None])

    outcomes = settle_fully(lost, item(shop, 100), item(shop, 100))

    assert sorted(outcomes) == [("hold_missing", -1), ("settled", 0), ("settled", 100)]
    query("DELETE FROM inference_prediction WHERE id = %s RETURNING id", lost["prediction_id"])
    assert "positions-follow" not in broken()


def test_a_price_of_another_account_is_not_lent(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    offer = Price.objects.create(
        model=shop.model,
        account=shop.creator,
        nanos_per_prediction=1,
        creator_share_bps=0,
        valid_from=timezone.now(),
    )
    with pytest.raises(DatabaseError, match="price of its own model"), transaction.atomic():
        settle(item(shop, 1, price_id=str(offer.pk)))


@pytest.mark.django_db(transaction=True)
def test_many_at_once_share_out_the_free_ones_exactly(shop: Shop, fund: Fund) -> None:
    """Bookings of many connections, some of several rows: no row is free twice."""
    fund(10**9)
    reprice(shop, flat=1_000, rates={"row": 7_000_000}, free_units=40, tiers=[[90, 2_500]])
    errors: list[str] = []

    def book(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(6):
                batch = []
                for _ in range(chance.randint(1, 4)):
                    units = chance.randint(1, 3)
                    most = units * 1_007
                    batch.append(item(shop, most, units=units, metered={"row": units}))
                settle(*batch)
        except DatabaseError as error:
            errors.append(str(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=book, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    events = list(UsageEvent.objects.order_by("position"))
    assert sum(one.units for one in events) == UsageCounter.objects.get().units > 90
    full = min(90, UsageCounter.objects.get().units) - 40
    rest = UsageCounter.objects.get().units - 90
    exact = full * 1_007 + rest * 1_007 / 4
    charged = sum(one.gross_nanos for one in events)
    # Each event is rounded up by less than a nano-dollar.
    assert exact <= charged < exact + len(events)
    assert broken() == set()


HARMS = {
    "a position that was taken twice": "UPDATE billing_usageevent SET position = 0",
    "a gap": "UPDATE billing_usageevent SET position = position + 1 WHERE position > 0",
    "a counter that is too high": "UPDATE billing_usagecounter SET units = units + 1",
    "a counter that is gone": "DELETE FROM billing_usagecounter",
    "an event that is not counted": "UPDATE billing_usageevent SET units = units + 1",
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harm_to_the_counting_is_found(shop: Shop, fund: Fund, harm: str) -> None:
    fund(10_000)
    reprice(shop, flat=100, free_units=1)
    settle(item(shop, 100), item(shop, 100))
    assert broken() == set()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_usageevent DISABLE TRIGGER USER")
        cursor.execute(HARMS[harm])

    assert "positions-follow" in broken()


@pytest.mark.parametrize(
    "member", ["metered = NULL", "metered = '{\"row\": 1}'", "gross_nanos = 999"]
)
def test_a_harm_to_what_was_metered_is_found(shop: Shop, fund: Fund, member: str) -> None:
    fund(10_000)
    reprice(shop, rates=RATES)
    settle(item(shop, 500, metered=METERED))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_usageevent DISABLE TRIGGER USER")
        cursor.execute(f"UPDATE billing_usageevent SET {member}")

    assert "usage-equals-price" in broken()


# --- Receipts ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("change", [0, -1, 1])
def test_a_receipt_proves_a_metered_charge_to_the_nano(
    shop: Shop, fund: Fund, settings: Any, change: int
) -> None:
    key = signature.generate_signing_key()
    settings.RECEIPT_KEY = encode_base64(key)
    fund(10_000)
    reprice(shop, flat=5, rates=RATES, free_units=1, tiers=[[1, 3_333]], minimum_nanos=3)
    for _ in range(2):
        given = item(shop, 1_000, metered=METERED)
        settle(given)
    assert seal_receipts() == 2
    with connection.cursor() as cursor:
        cursor.execute(RECEIPT_SQL, {"id": given["prediction_id"]})
        names = [column.name for column in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
    document = assemble(row, platform="https://x.example")
    keys = [signature.derive_public_key(key)]

    found = receipts.verify(document, keys)
    assert found.gross_nanos == UsageEvent.objects.get(pk=given["prediction_id"]).gross_nanos == 43
    assert document["charge"]["terms"]["position"] == 1
    if change:
        document["charge"]["gross_nanos"] += change
        with pytest.raises(ReceiptError, match="wrong_sum"):
            receipts.verify(document, keys)


TAMPERED = {
    "position": {"position": 0},
    "no position": {"position": None},
    "quota": {"free_units": 2},
    "tier": {"tiers": [[1, 3_200]]},
    "rate": {"nanos_per_million": RATES | {"compute_ms": 1_250_000}},
    "minimum": {"minimum_nanos": 44},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_receipt_with_other_terms_is_refused(name: str) -> None:
    charge = {
        "mode": "live",
        "units": {"prediction": 1, **METERED},
        "rates_nanos": {"prediction": 5},
        "creator_share_bps": 8_000,
        "gross_nanos": 43,
        "creator_nanos": 34,
        "terms": {
            "nanos_per_million": RATES,
            "minimum_nanos": 3,
            "free_units": 1,
            "tiers": [[1, 3_333]],
            "position": 1,
        },
    }
    receipts._check_sums(charge)
    charge["terms"] |= TAMPERED[name]
    with pytest.raises((ReceiptError, ValueError)):
        receipts._check_sums(charge)
