"""Slices of wallets: many predictions on few holds, and exact to the last one all the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone

from billing.models import Hold, LedgerAccount, Price, UsageEvent
from billing.services import ledger
from inference.models import Prediction
from marketplace.core.ids import from_public
from marketplace.models import APIKey
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
)
from tests.gateway.conftest import (
    INTERFACE,
    PRICE_NANOS,
    REPLICA_IDS,
    X,
    check_books,
    check_holds,
    check_ledger,
    check_nothing_booked,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def pay_for(shop, count: int) -> None:
    """Credit for so many predictions, the ten of the fixture among them, and a nano too little."""
    shop.fund((count - 10) * PRICE_NANOS)


def race(clients, count: int, **given):
    """So many predictions at the same time, over all the clients by turns."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda n: predict(clients[n % len(clients)], **given), range(count)))


def sell_out(clients, responses) -> list[str]:
    """Go on alone once things are quiet, until nothing more is sold; all ids that were answered."""
    answered = [one for one in responses if one.status_code == 201]
    refused = [one for one in responses if one.status_code != 201]
    assert {problem_of(one) for one in refused} <= {(402, "insufficient_credit")}
    number = 0
    while (response := predict(clients[number % len(clients)])).status_code == 201:
        answered.append(response)
        number += 1
    assert problem_of(response) == (402, "insufficient_credit")
    return [one.json()["id"] for one in answered]


def count_open() -> int:
    return Hold.objects.filter(state=Hold.State.PENDING).count()


def test_many_predictions_draw_on_few_holds(shop, client):
    pay_for(shop, 10_000)

    responses = [predict(client) for _ in range(60)]

    assert {one.status_code for one in responses} == {201}
    assert Hold.objects.count() <= 10
    assert max(Hold.objects.values_list("amount_nanos", flat=True)) >= 10 * PRICE_NANOS
    # Idle, nothing stays reserved; no hold has expired for that.
    check_books(shop, [one.json()["id"] for one in responses])
    assert set(Hold.objects.values_list("state", flat=True)) <= {"posted", "voided"}


def test_failures_use_no_slice_up(shop, client):
    pay_for(shop, 10_000)

    codes = {problem_of(predict(client, mode="fail"))[0] for _ in range(40)}

    assert codes == {500}
    assert Hold.objects.count() <= 10
    check_nothing_booked(shop)


def test_predictions_at_once_are_all_served_from_slices(shop, client):
    check_all_served_from_slices(shop, client)


def check_all_served_from_slices(shop, client):
    pay_for(shop, 200)

    responses = race([client], 100)

    assert {one.status_code for one in responses} == {201}
    check_books(shop, [one.json()["id"] for one in responses])


@pytest.mark.parametrize("_affordable", [1, 2, 7, 20])
def test_two_gateways_sell_exactly_what_a_small_wallet_pays_for(shop, start_gateway, _affordable):
    pay_for(shop, _affordable)
    clients = [shop.client(), shop.client(url=start_gateway().url)]

    responses = race(clients, _affordable + 12)

    answered = sell_out(clients, responses)
    assert len(answered) == _affordable
    check_books(shop, answered)


def test_two_gateways_sell_exactly_what_a_wallet_with_slices_pays_for(shop, start_gateway):
    affordable = 300
    pay_for(shop, affordable)
    clients = [shop.client(), shop.client(url=start_gateway().url)]

    responses = race(clients, affordable + 40)

    # Slices were in use, and their crumbs came together again.
    assert max(Hold.objects.values_list("amount_nanos", flat=True)) > PRICE_NANOS
    answered = sell_out(clients, responses)
    assert len(answered) == affordable
    check_books(shop, answered)


def test_slice_comes_back_when_another_gateway_needs_it(shop, gateway, start_gateway):
    check_slice_comes_back(shop, start_gateway(), gateway)


def check_slice_comes_back(shop, asking, holding):
    """The one is left with an idle slice, the other asks for more than the rest of the wallet."""
    pay_for(shop, 40)
    first, second = shop.client(url=holding.url), shop.client(url=asking.url)
    ids = [predict(first).json()["id"]]
    slice_nanos = 40 * PRICE_NANOS // 16
    assert Hold.objects.get().amount_nanos == slice_nanos
    wallet = LedgerAccount.objects.filter(pk=shop.wallet_id)
    # A price that only the whole wallet pays for: without what the first holds it is too much.
    Price.objects.update(valid_until=timezone.now())
    Price.objects.create(
        model=shop.model,
        nanos_per_prediction=39 * PRICE_NANOS,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )

    response = predict(second)

    assert response.status_code == 201, response.text
    ids.append(response.json()["id"])
    assert response.headers["x-cost-nano-usd"] == str(39 * PRICE_NANOS)
    assert wallet.get().posted_nanos == 0
    booked = UsageEvent.objects.values_list("pk", flat=True)
    assert sorted(booked) == sorted(from_public(one) for one in ids)
    eventually(lambda: check_holds(shop))
    check_ledger()


def test_killed_gateway_leaves_a_slice_that_expires_and_charges_nothing(shop, start_gateway):
    pay_for(shop, 10_000)
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(predict, client, wait_s=3)
        eventually(lambda: check_open(1))
        gateway.kill()
        assert response.exception() is not None

    slice_nanos = Hold.objects.get().amount_nanos
    assert slice_nanos > PRICE_NANOS
    assert LedgerAccount.objects.get(pk=shop.wallet_id).held_nanos == slice_nanos
    assert ledger.expire_holds() == 0
    Hold.objects.update(expires_at=timezone.now())
    assert ledger.expire_holds() == 1
    check_nothing_booked(shop)
    assert Prediction.objects.count() == 0


def check_open(count):
    assert count_open() == count


def test_stopped_gateway_gives_its_slice_back(shop, start_gateway):
    pay_for(shop, 10_000)
    gateway = start_gateway()
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(predict, shop.client(url=gateway.url), wait_s=1)
        eventually(lambda: check_open(1))
        assert Hold.objects.get().amount_nanos > PRICE_NANOS

        gateway.stop()

        assert count_open() == 0
        check_books(shop, [response.result().json()["id"]])


def test_new_price_is_paid_from_the_slice_that_is_there(shop, client):
    pay_for(shop, 10_000)
    assert predict(client).status_code == 201
    Price.objects.update(valid_until=timezone.now())
    Price.objects.create(
        model=shop.model,
        nanos_per_prediction=3 * PRICE_NANOS,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )

    def check_new_price():
        response = predict(client)
        assert response.headers["x-cost-nano-usd"] == str(3 * PRICE_NANOS)

    eventually(check_new_price)
    dear = UsageEvent.objects.filter(gross_nanos=3 * PRICE_NANOS)
    assert dear.count() == 1
    assert UsageEvent.objects.exclude(pk=dear.get().pk).filter(gross_nanos=PRICE_NANOS).exists()
    eventually(lambda: check_holds(shop))
    check_ledger()


def test_two_creators_are_paid_from_one_slice(shop, client):
    pay_for(shop, 10_000)
    other = AccountFactory(slug="other")
    model = AIModelFactory(account=other, name="second")
    version = ModelVersionFactory(model=model, number=1, interface=INTERFACE)
    ChannelFactory(version=version)
    Price.objects.create(
        model=model,
        nanos_per_prediction=500,
        creator_share_bps=5_000,
        valid_from=timezone.now(),
    )
    shop.add_replica(REPLICA_IDS[1], version=version)

    def buy(number):
        name = ("maker/echo", "other/second")[number % 2]
        return client.post(f"/v1/models/{name}/predictions", json={"input": {"x": X}})

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(buy, range(40)))

    assert {one.status_code for one in responses} == {201}
    payables = LedgerAccount.objects.filter(kind="creator_reserve")
    assert dict(payables.values_list("holder__slug", "posted_nanos")) == {
        "maker": 20 * 800,
        "other": 20 * 250,
    }
    eventually(lambda: check_holds(shop))
    check_ledger()


# --- Budgets ---


@pytest.fixture
def budget(shop):
    """Gives the consumer's key a budget; all gateways hear of it."""

    def give(**nanos: int | None) -> None:
        APIKey.objects.filter(pk=shop.key.pk).update(
            **{f"budget_{period}_nanos": value for period, value in nanos.items()}
        )

    return give


@pytest.mark.parametrize("_period", ["day", "month", "total"])
def test_two_gateways_spend_exactly_a_budget(shop, start_gateway, budget, _period):
    pay_for(shop, 10_000)
    # Above the border of slices, and a nano less than one prediction more.
    affordable = 40
    budget(**{_period: (affordable + 1) * PRICE_NANOS - 1})
    clients = [shop.client(), shop.client(url=start_gateway().url)]

    responses = race(clients, affordable + 15)

    answered = [one for one in responses if one.status_code == 201]
    refused = [one for one in responses if one.status_code != 201]
    while (response := predict(clients[0])).status_code == 201:
        answered.append(response)
    assert {problem_of(one) for one in [*refused, response]} == {(402, "budget_exceeded")}
    assert len(answered) == affordable
    check_books(shop, [one.json()["id"] for one in answered])
    # Another key of the account has no such budget.
    other = shop.client(APIKeyFactory(account=shop.consumer).text)
    assert predict(other).status_code == 201


def test_changed_budget_takes_effect_within_a_second(shop, client, budget):
    pay_for(shop, 10_000)
    assert predict(client).status_code == 201  # On a slice without a budget.

    budget(day=2 * PRICE_NANOS)

    def check_status(status):
        assert predict(client).status_code == status

    # One more is within it, and was maybe bought already while the news was on its way.
    eventually(lambda: check_status(402), timeout_s=5)
    assert UsageEvent.objects.count() >= 2
    sold = UsageEvent.objects.count()
    budget(day=(sold + 1) * PRICE_NANOS)
    eventually(lambda: check_status(201), timeout_s=5)
    eventually(lambda: check_status(402), timeout_s=5)
    assert UsageEvent.objects.count() == sold + 1
    budget(day=None)
    eventually(lambda: check_status(201), timeout_s=5)
    eventually(lambda: check_holds(shop))
    check_ledger()


def test_failure_gives_a_budget_back(shop, client, budget):
    pay_for(shop, 10_000)
    budget(total=PRICE_NANOS)

    def check_failed():
        assert predict(client, mode="fail").status_code == 500

    for _ in range(3):
        eventually(check_failed)
    check_nothing_booked(shop)

    def check_sold():
        response = predict(client)
        assert response.status_code == 201
        return response

    response = eventually(check_sold)
    assert problem_of(predict(client)) == (402, "budget_exceeded")
    check_books(shop, [response.json()["id"]])


def test_test_key_spends_no_budget(shop):
    key = APIKeyFactory(account=shop.creator, mode="test", budget_total_nanos=0)
    client = shop.client(key.text)

    answered = [predict(client).json()["id"] for _ in range(2)]

    check_books(shop, answered, price_nanos=0)


def test_budget_is_refused_in_the_words_of_each_protocol(language, client, budget):
    budget(total=0)

    native = predict(client)
    assert problem_of(native) == (402, "budget_exceeded")
    assert native.json()["required_nano_usd"] == PRICE_NANOS
    openai = client.post("/openai/v1/embeddings", json={"model": "maker/vectors", "input": "a"})
    assert openai.status_code == 402
    error = openai.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exceeded")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X}
    oip = client.post("/v2/models/maker/echo/infer", json={"inputs": [tensor]})
    assert oip.status_code == 402
    assert set(oip.json()) == {"error"}
    for response in (native, openai, oip):
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-cost-nano-usd"] == "0"
    check_nothing_booked(language)
    assert Hold.objects.count() == 0
