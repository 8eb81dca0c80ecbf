"""What consumers and creators see of money, and what others do not."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import Price, Topup
from billing.selectors.price import find_price
from billing.services.price import NANOS_PER_PREDICTION_MAX
from billing.views import wallet
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.models import Account, AuditEvent, User
from tests.billing.conftest import Shop, hold, settle
from tests.factories import AIModelFactory, MembershipFactory

pytestmark = pytest.mark.django_db

Fund = Callable[[int], None]


@pytest.fixture
def consumer_client(shop: Shop, owner: User) -> Client:
    MembershipFactory(account=shop.consumer, user=owner, role="owner")
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def creator_client(shop: Shop, teammate: User) -> Client:
    MembershipFactory(account=shop.creator, user=teammate, role="owner")
    client = Client()
    client.force_login(teammate)
    return client


def test_consumer_and_creator_see_the_same_prediction(
    shop: Shop, fund: Fund, consumer_client: Client, creator_client: Client
) -> None:
    fund(2 * NANOS_PER_DOLLAR)
    settle(shop.item(hold(shop)))

    wallet = consumer_client.get("/console/wallet?account=consumer").content.decode()
    usage = consumer_client.get("/console/usage?account=consumer").content.decode()
    earnings = creator_client.get("/dashboard/earnings?account=creator").content.decode()

    assert "$1.999998999" in wallet
    assert "$0.000001001" in usage
    assert "$0.0000008" in earnings


@pytest.mark.parametrize(
    "path",
    [
        "/console/wallet?account=consumer",
        "/console/usage?account=consumer",
        "/dashboard/earnings?account=consumer",
        "/panels/wallet?account=consumer",
        "/panels/usage?account=consumer",
        "/panels/earnings?account=consumer",
    ],
)
def test_others_get_nothing(shop: Shop, outsider_client: Client, path: str) -> None:
    assert outsider_client.get(path).status_code == 404
    assert Client().get(path).status_code == 302


@pytest.mark.parametrize("rows", [1, 6])
def test_usage_asks_a_fixed_number_of_questions(
    shop: Shop, fund: Fund, consumer_client: Client, django_assert_max_num_queries, rows: int
) -> None:
    fund(NANOS_PER_DOLLAR)
    settle(*[shop.item(hold(shop)) for _ in range(rows)])

    # Two of them for announcements and incidents, kept for seconds outside of tests; one is the
    # bell's.
    with django_assert_max_num_queries(14):
        consumer_client.get("/console/usage?account=consumer")


def test_a_viewer_sees_the_wallet_and_cannot_top_up(
    shop: Shop, outsider: User, outsider_client: Client
) -> None:
    MembershipFactory(account=shop.consumer, user=outsider, role="viewer")

    page = outsider_client.get("/console/wallet?account=consumer")
    answer = outsider_client.post("/console/wallet?account=consumer", {"amount_dollars": "25"})

    assert b"Buy credit" not in page.content
    assert answer.status_code == 403
    assert not Topup.objects.exists()


def test_credit_goes_to_the_account_whose_page_was_filled_in(
    shop: Shop, owner: User, consumer_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if another tab has made another account the current one since."""
    MembershipFactory(account=shop.creator, user=owner, role="owner")
    monkeypatch.setattr(wallet, "start_topup", started := Mock())
    started.return_value.checkout_url = "https://checkout.example.com"
    page = consumer_client.get("/console/wallet?account=consumer").content.decode()
    consumer_client.get("/console/wallet?account=creator")
    action = re.search(r'<form method="post" action="(/console/wallet[^"]*)"', page)
    assert action is not None

    answer = consumer_client.post(html.unescape(action[1]), {"amount_dollars": "25"})

    assert answer.status_code == 302
    assert started.call_args.args[1] == shop.consumer


@pytest.mark.parametrize("amount", ["4.99", "10000.01", "abc", "", "-5", "NaN", "5.001"])
def test_a_wrong_amount_is_told_and_buys_nothing(
    shop: Shop, consumer_client: Client, amount: str
) -> None:
    answer = consumer_client.post("/console/wallet?account=consumer", {"amount_dollars": amount})

    assert answer.status_code == 422
    assert not Topup.objects.exists()


def test_the_price_can_be_set_by_its_creator_only(
    shop: Shop, creator_client: Client, consumer_client: Client
) -> None:
    path = "/panels/price/creator/echo"

    assert b"Set price" not in Client().get(path).content
    assert consumer_client.post(path, {"dollars_per_prediction": "1"}).status_code == 403
    assert Client().post(path, {"dollars_per_prediction": "1"}).status_code == 403
    assert Price.objects.count() == 1

    assert creator_client.post(path, {"dollars_per_prediction": "0.25"}).status_code == 200
    assert find_price(shop.model).nanos_per_prediction == NANOS_PER_DOLLAR // 4
    assert Price.objects.count() == 2
    assert AuditEvent.objects.get(action="price.set").payload["before"] == 1_001


def test_the_same_price_again_changes_nothing(shop: Shop, creator_client: Client) -> None:
    creator_client.post("/panels/price/creator/echo", {"dollars_per_prediction": "0.000001001"})

    assert Price.objects.get() == shop.price


def test_a_slow_clock_of_this_machine_harms_no_price(
    shop: Shop, creator_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timezone, "now", lambda: datetime.now(UTC) - timedelta(seconds=5))

    for dollars in (1, 2, 3):
        answer = creator_client.post(
            "/panels/price/creator/echo", {"dollars_per_prediction": f"{dollars}"}
        )
        assert answer.status_code == 200
        assert find_price(shop.model).nanos_per_prediction == dollars * NANOS_PER_DOLLAR

    assert Price.objects.filter(valid_until=None).count() == 1
    assert Price.objects.count() == 4


@pytest.mark.parametrize("price", ["", "x", "-1", "0.0000000001", "1000.01", "NaN", "1e99"])
def test_a_wrong_price_is_told_and_changes_nothing(
    shop: Shop, creator_client: Client, price: str
) -> None:
    answer = creator_client.post("/panels/price/creator/echo", {"dollars_per_prediction": price})

    assert answer.status_code == 422
    assert Price.objects.get() == shop.price


def test_the_price_of_a_private_model_is_private(
    shop: Shop, account: Account, outsider_client: Client
) -> None:
    AIModelFactory(account=account, name="hidden", visibility="private")

    assert outsider_client.get("/panels/price/acme/hidden").status_code == 404
    assert Client().get("/api/models/acme/hidden/price").status_code == 404


def test_the_dearest_price_and_one_past_it(shop: Shop, creator_client: Client) -> None:
    dollars = NANOS_PER_PREDICTION_MAX // NANOS_PER_DOLLAR
    path = "/panels/price/creator/echo"

    assert creator_client.post(path, {"dollars_per_prediction": f"{dollars}"}).status_code == 200
    past = f"{dollars}.000000001"
    assert creator_client.post(path, {"dollars_per_prediction": past}).status_code == 422
