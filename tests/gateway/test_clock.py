"""A gateway whose machine's clock is hours or weeks wrong: the database's decides everything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from billing.models import Price, UsageCounter, UsageEvent
from billing.selectors.usage import UsageFilter, list_usage
from inference.models import Prediction
from marketplace.core.ids import from_public
from marketplace.models import APIKey
from strongroom import receipts
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.sealing import seal_all
from tests.gateway.conftest import PRICE_NANOS, check_ledger, predict, problem_of
from tests.gateway.processes import eventually
from tests.gateway.skewed import VARIABLE

pytestmark = pytest.mark.django_db(transaction=True)

HOUR_S, DAY_S = 3_600, 86_400
# The last ones are in other months, in other quotas and on other invoices.
SKEWS_S = [5 * HOUR_S, -5 * HOUR_S, 40 * DAY_S, -40 * DAY_S]
NEAR = timedelta(minutes=2)
KEY = signature.generate_signing_key()


@pytest.fixture
def start_skewed(shop, start_gateway):
    """A client of a gateway whose machine's clock is wrong by so many seconds."""

    def start(skew_s: int, target: str = "app"):
        gateway = start_gateway(target=f"tests.gateway.skewed:{target}", **{VARIABLE: str(skew_s)})
        client = shop.client(url=gateway.url)

        def check_ready():
            assert client.get("/health/ready").status_code == 200

        eventually(check_ready, timeout_s=20)
        return client

    return start


def give_one_free(shop):
    """Each month the first prediction is free."""
    Price.objects.update(valid_until=timezone.now())
    shop.price = Price.objects.create(
        model=shop.model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=8_000,
        free_units=1,
        valid_from=timezone.now(),
    )


def check_dated_now(shop, client):
    """Booking, row, id, quota, usage page and receipt are all of this moment."""
    give_one_free(shop)
    first, second = shop.client(), client
    assert predict(first).headers["x-cost-nano-usd"] == "0"

    response = predict(second)

    # The month's free one was used up, whatever month the second gateway believes it is.
    assert (response.status_code, response.headers["x-cost-nano-usd"]) == (201, str(PRICE_NANOS))
    prediction_id = from_public(response.json()["id"])
    event = UsageEvent.objects.get(pk=prediction_id)
    row = Prediction.objects.get(pk=prediction_id)
    minted = datetime.fromtimestamp((prediction_id.int >> 80) / 1_000, UTC)
    told = datetime.fromisoformat(response.json()["completed_at"])
    for moment in (event.occurred_at, row.created_at, row.completed_at, minted, told):
        assert abs(moment - timezone.now()) < NEAR, moment
    counter = UsageCounter.objects.get()
    assert (counter.starts_on, counter.units) == (timezone.now().date().replace(day=1), 2)
    today = timezone.now().date()
    listed = list_usage(shop.consumer, UsageFilter(since=today - timedelta(days=1), until=today))
    assert listed.filter(pk=prediction_id).exists()
    seal_all()
    receipt = client.get(f"/v1/predictions/{response.json()['id']}/receipt").json()
    found = receipts.verify(receipt, [signature.derive_public_key(KEY)])
    assert found.gross_nanos == PRICE_NANOS
    dated = datetime.fromisoformat(receipt["charge"]["occurred_at"])
    assert abs(dated - timezone.now()) < NEAR
    check_ledger()


@pytest.mark.parametrize("skew_s", SKEWS_S)
def test_a_booking_is_of_the_databases_month_and_moment(shop, start_skewed, settings, skew_s):
    settings.RECEIPT_KEY = encode_base64(KEY)

    check_dated_now(shop, start_skewed(skew_s))


@pytest.mark.parametrize("skew_s", [40 * DAY_S, 5 * HOUR_S])
def test_a_gateway_that_goes_by_its_own_clock_is_noticed(shop, start_skewed, settings, skew_s):
    settings.RECEIPT_KEY = encode_base64(KEY)

    with pytest.raises(AssertionError):
        check_dated_now(shop, start_skewed(skew_s, "dates_by_itself"))


def test_keys_expire_by_the_databases_clock(shop, start_skewed):
    late, early = start_skewed(-5 * HOUR_S), start_skewed(5 * HOUR_S)
    now = timezone.now()
    APIKey.objects.filter(pk=shop.key.pk).update(expires_at=now + timedelta(hours=1))
    assert predict(early).status_code == 201
    APIKey.objects.filter(pk=shop.key.pk).update(expires_at=now - timedelta(hours=1))

    def check_expired():
        # The key that was looked up is kept for a moment.
        assert problem_of(predict(late)) == (401, "unauthenticated")

    eventually(check_expired, timeout_s=30)
