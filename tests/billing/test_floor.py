"""What a metered price has to bring in, by the certificate and by what was used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from billing.selectors import price as selectors
from billing.selectors.price import KindFloor, weigh_price
from marketplace.models import Membership, User
from strongroom.rating import Terms
from tests.billing.conftest import Shop, settle
from tests.billing.test_metered import item, reprice

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
SHARE_BPS = 8_000
# A machine's hour costs $3.60: a second is a million nano-dollars, and a row takes 20 ms of it.
SECOND_NANOS = 1_000_000
ROW_NANOS = 20_000
CERTIFICATE = {"benchmark": {"points": [{"rows_per_s": 12.5}, {"rows_per_s": 50.0}]}}


@pytest.fixture
def measured(shop: Shop, settings: Any) -> Shop:
    settings.MACHINE_HOUR_NANOS = 3_600 * SECOND_NANOS
    shop.version.certificate = CERTIFICATE
    shop.version.save()
    return shop


def weigh(shop: Shop, flat: int = 0, *, minimum: int = 0, **rates: int) -> selectors.Weight:
    return weigh_price(shop.model, Terms(flat, rates, minimum_nanos=minimum), SHARE_BPS)


def use(shop: Shop, *counts: dict[str, int], units: int = 1) -> None:
    """Predictions that were metered."""
    reprice(shop, rates=dict.fromkeys(counts[0], 1_000_000))
    for metered in counts:
        assert settle(item(shop, sum(metered.values()), units=units, metered=metered)) == [
            "settled"
        ]


def test_a_flat_price_is_weighed_as_before(measured: Shop) -> None:
    weight = weigh(measured, 30_000)

    assert (weight.own_nanos, weight.floor_nanos, weight.margin_nanos) == (24_000, 20_000, 4_000)
    assert weight.kinds == ()


def test_a_second_of_compute_and_a_row_follow_from_the_certificate(measured: Shop) -> None:
    # Of 80 % of $0.00125 for a second the creator gets what a second costs.
    weight = weigh(measured, compute_ms=1_250_000_000, row=1)

    assert weight.kinds == (
        KindFloor("compute_ms", 1_250_000_000, 1_250_000_000),
        KindFloor("row", 1, 25_000_000_000),
    )
    assert (weight.own_nanos, weight.margin_nanos) == (ROW_NANOS, 0)
    assert weigh(measured, compute_ms=1_249_000_000).margin_nanos == -16


def test_tokens_and_pixels_are_known_once_they_were_used(measured: Shop, fund: Fund) -> None:
    rates = {"input_token": 100_000_000, "output_token": 400_000_000}
    unknown = weigh(measured, **rates)
    assert (unknown.own_nanos, unknown.margin_nanos, unknown.kinds) == (None, None, ())
    assert unknown.floor_nanos == ROW_NANOS
    fund(10**9)

    use(measured, {"input_token": 100, "output_token": 50}, {"input_token": 300, "output_token": 0})

    weight = weigh(measured, **rates)
    # On average 200 and 25: 20,000 + 10,000 nano-dollars, of which 80 % are the creator's.
    assert (weight.own_nanos, weight.margin_nanos, weight.measured_rows) == (24_000, 4_000, 2)
    floors = {one.kind: one.floor_nanos for one in weight.kinds}
    assert floors == {"input_token": 125_000_000, "output_token": 1_000_000_000}


def test_several_rows_of_a_prediction_are_several(measured: Shop, fund: Fund) -> None:
    fund(10**9)
    use(measured, {"pixel": 4_000_000}, units=4)

    weight = weigh(measured, pixel=25_000)

    assert (weight.measured_rows, weight.own_nanos, weight.margin_nanos) == (4, 20_000, 0)


def test_what_is_older_than_a_month_is_not_looked_at(
    measured: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    fund(10**9)
    use(measured, {"pixel": 4_000})
    assert weigh(measured, pixel=1).measured_rows == 1

    # As if this were so much later.
    monkeypatch.setattr(selectors, "USE_WITHIN", -timedelta(minutes=1))

    assert weigh(measured, pixel=1).own_nanos is None


def test_use_of_another_model_says_nothing(measured: Shop, fund: Fund) -> None:
    fund(10**9)
    use(measured, {"pixel": 4_000})
    other = type(measured.model).objects.create(
        account=measured.creator, name="other", title="Other"
    )

    assert weigh_price(other, Terms(0, {"pixel": 1}), SHARE_BPS).own_nanos is None


def test_the_minimum_and_the_flat_part_count(measured: Shop) -> None:
    assert weigh(measured, 1_000, minimum=50_000, compute_ms=1_000_000).own_nanos == 40_000
    assert weigh(measured, 10_000, compute_ms=1_000_000_000).own_nanos == 24_000


def test_without_a_certificate_nothing_is_said_of_costs(shop: Shop) -> None:
    weight = weigh(shop, 1_000, compute_ms=5, row=5)

    assert (weight.floor_nanos, weight.margin_nanos, weight.kinds) == (None, None, ())


def test_without_a_share_no_rate_covers_it(measured: Shop) -> None:
    weight = weigh_price(measured.model, Terms(0, {"row": 10**12}), 0)

    assert (weight.kinds, weight.margin_nanos) == ((), -ROW_NANOS)


def test_control_the_flat_part_alone_would_say_nothing_of_a_loss(
    measured: Shop, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: no price with rates was ever below what it costs."""
    page = log_in(measured, owner)
    shown = page.post(f"{PATH}/price", {"rate_compute_ms": "0.001"})
    assert b"typical prediction would earn you $0.000016 and costs $0.00002" in shown.content

    only_flat = selectors.weigh_price

    def weigh_flat(model: Any, terms: Terms, share_bps: int) -> selectors.Weight:
        weight = only_flat(model, Terms(terms.nanos_per_prediction), share_bps)
        return selectors.Weight(None if terms.rates else weight.own_nanos, weight.floor_nanos)

    monkeypatch.setattr("billing.views.price_page.weigh_price", weigh_flat)
    shown = page.post(f"{PATH}/price", {"rate_compute_ms": "0.001"})
    assert b"would earn you" not in shown.content


PATH = "/dashboard/models/creator/echo"


def log_in(shop: Shop, owner: User) -> Client:
    Membership.objects.create(account=shop.creator, user=owner, role="owner")
    client = Client()
    client.force_login(owner)
    return client


def test_the_page_says_what_it_takes(measured: Shop, owner: User, fund: Fund) -> None:
    reprice(measured, rates={"compute_ms": 1_500_000_000, "input_token": 10})

    page = log_in(measured, owner).get(f"{PATH}/price").content.decode()

    assert "takes $0.00125 per second of compute" in page
    assert "known once the model was used" in page


def test_the_api_tells_its_creator_and_nobody_else(measured: Shop, owner: User) -> None:
    reprice(measured, rates={"compute_ms": 1_500_000_000})
    path = "/api/models/creator/echo/prices"

    answer = log_in(measured, owner).get(path).json()

    assert answer["floor_rates"] == {"compute_ms": 1_250_000_000}
    assert (answer["floor_nanos"], answer["margin_nanos"]) == (ROW_NANOS, 4_000)
    measured.model.visibility = "public"
    measured.model.save()
    assert "floor_rates" not in Client().get(path).json()
