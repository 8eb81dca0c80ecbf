"""What lines of batches cost: a part of the price, rated by a row of its own."""

from __future__ import annotations

import random
import threading
from fractions import Fraction
from math import ceil

import pytest
from django.db import connection, connections
from django.utils import timezone

from billing.models import Price
from billing.selectors.price import find_price, list_prices
from billing.services.price import PriceTerms, set_price
from billing.templatetags.prices import price_lines
from marketplace.core.errors import InvalidInputError
from marketplace.selectors.access import Actor
from strongroom.rating import Terms, rate, scale
from tests.factories import AccountFactory, AIModelFactory


@pytest.fixture
def model(db):
    return AIModelFactory(account=AccountFactory())


def find_batch_price(price: Price) -> Price:
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_batch_price(%s)", [price.pk])
        return Price.objects.get(pk=cursor.fetchone()[0])


def make_case(chance: random.Random) -> tuple[Terms, int, dict[str, int]]:
    kinds = chance.sample(("row", "compute_ms", "pixel"), chance.randint(0, 3))
    rates = {kind: chance.randint(0, chance.choice([1, 99, 10**12])) for kind in kinds}
    terms = Terms(chance.choice([0, 1, 99, 10**12]), rates, chance.choice([0, 1, 101]))
    units = {kind: 1 if kind == "row" else chance.randint(0, 10**6) for kind in kinds}
    return terms, chance.randint(1, 99), units


@pytest.mark.django_db
def test_sql_and_python_scale_alike_and_never_below_the_part():
    chance = random.Random(7)
    for _ in range(500):
        terms, percent, units = make_case(chance)
        nanos = [terms.nanos_per_prediction, terms.minimum_nanos, *terms.rates.values()]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT array_agg(billing_scale(n, %s) ORDER BY place)"
                " FROM unnest(%s::bigint[]) WITH ORDINALITY AS g (n, place)",
                [percent, nanos],
            )
            [found] = cursor.fetchone()
        scaled = scale(terms, percent)
        assert found == [scaled.nanos_per_prediction, scaled.minimum_nanos, *scaled.rates.values()]
        assert found == [ceil(Fraction(one * percent, 100)) for one in nanos]

        whole, part = rate(terms, 1, units), rate(scaled, 1, units)
        # Never more than the whole; and below the part by no more than each kind's rounding.
        assert part <= whole
        assert part * 100 >= whole * percent - 100 * len(units)


@pytest.mark.django_db
def test_the_row_of_a_batch_price_is_made_once_and_meets_nobody_else(model):
    price = set_price(
        Actor(),
        model,
        nanos_per_prediction=1_001,
        rates={"compute_ms": 7},
        max_units={"compute_ms": 9},
        minimum_nanos=3,
        free_units=2,
        tiers=[[5, 5_000]],
        batch_percent=50,
    )

    made = find_batch_price(price)

    assert find_batch_price(price) == made
    assert made.terms == scale(price.terms, 50)
    assert (made.nanos_per_prediction, made.rates, made.minimum_nanos) == (
        501,
        {"compute_ms": 4},
        2,
    )
    assert (made.free_units, made.tiers) == (2, [[5, 5_000]])
    assert made.max_units == price.max_units
    assert made.creator_share_bps == price.creator_share_bps
    assert made.batch_of == price
    assert find_price(model) == price
    assert list(list_prices(model)) == [price]
    # Another price begins, as if there were no such row.
    assert set_price(Actor(), model, nanos_per_prediction=900).pk == find_price(model).pk


@pytest.mark.django_db
def test_where_nothing_is_taken_off_it_is_the_price_itself(model):
    price = set_price(Actor(), model, nanos_per_prediction=7)

    assert find_batch_price(price) == price
    assert Price.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_need_it_at_once_get_the_same():
    price = Price.objects.create(
        model=AIModelFactory(account=AccountFactory()),
        nanos_per_prediction=9,
        batch_percent=50,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )
    found, start = [], threading.Barrier(4)

    def ask() -> None:
        try:
            start.wait()
            found.append(find_batch_price(price).pk)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert len(found) == 4
    assert len(set(found)) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("percent", "is_taken"), [(0, False), (1, True), (100, True), (101, False)]
)
def test_a_part_is_between_one_and_a_hundred_percent(model, percent, is_taken):
    if is_taken:
        price = set_price(Actor(), model, nanos_per_prediction=7, batch_percent=percent)
        assert price.batch_percent == percent
        return
    with pytest.raises(InvalidInputError) as caught:
        set_price(Actor(), model, nanos_per_prediction=7, batch_percent=percent)
    assert caught.value.errors[0]["pointer"] == "/batch_percent"
    assert not Price.objects.exists()


def test_less_off_for_batches_is_a_rise():
    half = PriceTerms(100, batch_percent=50)

    assert PriceTerms(100, batch_percent=51).is_rise_from(half)
    assert not PriceTerms(100, batch_percent=49).is_rise_from(half)
    assert not half.is_rise_from(PriceTerms(100))
    # Half of 99 and half of 100 are the same, rounded up; the whole is not dearer.
    assert not PriceTerms(99, batch_percent=50).is_rise_from(half)


@pytest.mark.django_db
def test_a_price_says_it(model):
    price = set_price(Actor(), model, nanos_per_prediction=1_000, batch_percent=40)

    assert "lines of batches cost 40 % of it" in price_lines(price)
