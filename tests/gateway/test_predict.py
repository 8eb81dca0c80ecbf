"""The way that a prediction should go."""

from __future__ import annotations

import concurrent.futures
import re
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from billing.models import LedgerAccount, Price, UsageEvent
from inference.models import Node, Prediction, Replica
from marketplace.core.ids import from_public
from marketplace.models import APIKey, Channel
from tests.factories import APIKeyFactory, ModelVersionFactory
from tests.gateway.conftest import (
    CREATOR_NANOS,
    INTERFACE,
    PRICE_NANOS,
    X,
    check_books,
    check_nothing_booked,
    predict,
    predict_many,
    problem_of,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def test_prediction_is_answered_and_booked_once(shop, client):
    response = predict(client, note="hello")

    check_books(shop, [response.json()["id"]])
    assert response.status_code == 201
    document = response.json()
    metrics, urls = document.pop("metrics"), document.pop("urls")
    times = [document.pop(f"{name}_at") for name in ("created", "started", "completed")]
    deadline = document.pop("deadline")
    public_id = document.pop("id")
    assert document == {
        "model": "maker/echo",
        "version": "ab" * 32,
        "input": {"x": X, "note": "hello"},
        "output": {
            "y": [2.0, 5.0, 6.0, 8.0],
            "scores": [0.0, 0.75, 0.0],
            "kind": {"label": "b", "score": 0.75},
            "echo": "hello",
        },
        "logs": "",
        "error": None,
        "status": "succeeded",
        "source": "api",
        "data_removed": False,
    }
    assert metrics["cost_nano_usd"] == PRICE_NANOS
    assert 0 < metrics["predict_time"] <= metrics["total_time"]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", one) for one in times)
    assert (datetime.fromisoformat(deadline) - datetime.fromisoformat(times[0])).seconds == 60
    assert urls["get"] == f"https://gateway.example/v1/predictions/{public_id}"


def test_headers_say_what_it_was_and_what_it_cost(shop, client):
    response = predict(client)

    headers = response.headers
    assert headers["inference-id"] == response.json()["id"]
    assert headers["x-cost-nano-usd"] == str(PRICE_NANOS)
    assert headers["cache-control"] == "private, no-store"
    assert headers["vary"] == "Authorization"
    assert re.fullmatch("[a-z2-7]{26}", headers["x-request-id"])


def test_row_and_usage_say_who_what_and_how_much(shop, client):
    public_id = predict(client).json()["id"]

    row = Prediction.objects.get()
    usage = UsageEvent.objects.get()
    assert (row.pk, usage.pk) == (from_public(public_id), from_public(public_id))
    assert (row.account_id, row.api_key_id, row.version_id) == (
        shop.consumer.pk,
        shop.key.pk,
        shop.version.pk,
    )
    assert (row.protocol, row.source, row.rows, row.cost_nanos) == ("native", "api", 1, PRICE_NANOS)
    assert (row.input, row.output, row.error) == (None, None, "")
    assert row.created_at <= row.completed_at
    assert (usage.creator_id, usage.price_id) == (shop.creator.pk, shop.price.pk)
    assert (usage.mode, usage.units, usage.gross_nanos) == ("live", 1, PRICE_NANOS)
    payable = LedgerAccount.objects.get(kind="creator_reserve")
    revenue = LedgerAccount.objects.get(kind="platform_revenue")
    assert (payable.posted_nanos, revenue.posted_nanos) == (
        CREATOR_NANOS,
        PRICE_NANOS - CREATOR_NANOS,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/predictions",
        "/v1/v1/predictions",
        "/v1/models/maker/echo/predictions",
        "/v1/models/maker%2Fecho/predictions",
    ],
)
def test_every_address_leads_to_the_model(shop, client, path):
    body = {"input": {"x": X}}
    if "models" not in path:
        body["version"] = "maker/echo"

    response = client.post(path, json=body, headers={"Prefer": "wait"})

    assert response.status_code == 201
    check_books(shop, [response.json()["id"]])


@pytest.mark.parametrize(
    "_reference",
    ["maker/echo", "maker/echo:1", "maker/echo:" + "ab" * 32, "ab" * 32, "maker/echo@prod"],
)
def test_every_reference_names_the_version(shop, client, _reference):
    body = {"version": _reference, "input": {"x": X}}

    response = client.post("/v1/predictions", json=body)

    assert response.status_code == 201
    assert response.json()["version"] == "ab" * 32


def test_keys_may_come_as_token(shop):
    client = shop.client("")

    response = predict(client, headers={"Authorization": f"Token {shop.key.text}"})

    assert response.status_code == 201


def test_moved_channel_is_followed_at_once(shop, client):
    assert predict(client).json()["version"] == "ab" * 32
    second = ModelVersionFactory(
        model=shop.model, number=2, interface=INTERFACE, manifest_sha256="cd" * 32
    )

    Channel.objects.filter(model=shop.model).update(version=second)

    # It has no replica: the answer shows that the new version was meant.
    eventually(lambda: check_not_ready(predict(client)))
    assert client.post(
        "/v1/predictions", json={"version": "maker/echo:1", "input": {"x": X}}
    ).json()["version"] == ("ab" * 32)


def check_not_ready(response):
    assert problem_of(response) == (503, "model_not_ready")


def test_new_price_is_charged_at_once(shop, client):
    first = predict(client).json()["metrics"]["cost_nano_usd"]
    now = timezone.now()
    Price.objects.filter(pk=shop.price.pk).update(valid_until=now)
    Price.objects.create(
        model=shop.model, nanos_per_prediction=5, creator_share_bps=8_000, valid_from=now
    )

    assert first == PRICE_NANOS
    eventually(lambda: check_cost(predict(client), 5), timeout_s=1)


def test_price_of_the_future_is_charged_from_then_on(shop, client):
    shop.fund(1000 * PRICE_NANOS)
    begin = timezone.now() + timedelta(seconds=1)
    Price.objects.filter(pk=shop.price.pk).update(valid_until=begin)
    Price.objects.create(
        model=shop.model, nanos_per_prediction=5, creator_share_bps=8_000, valid_from=begin
    )

    assert predict(client).json()["metrics"]["cost_nano_usd"] == PRICE_NANOS
    # No notice is sent at that moment: the gateway must have known of it.
    eventually(lambda: check_cost(predict(client), 5), timeout_s=2)


def check_cost(response, cost_nanos):
    assert response.headers["x-cost-nano-usd"] == str(cost_nanos)


def test_version_that_names_no_batch_takes_one_row_and_stops_nobody(shop, client):
    # The gateway reads its picture of all replicas anew: once without, once with.
    Replica.objects.update(wanted=False)
    eventually(lambda: check_status(503, predict(client)))
    shop.version.interface = {name: INTERFACE[name] for name in ("inputs", "outputs")}
    shop.version.save()
    Replica.objects.update(wanted=True)

    eventually(lambda: check_status(201, predict(client)))


def test_predictions_go_on_while_the_site_is_away(shop, client):
    # Nobody hears the nodes then. The gateway reads its picture anew: once without, once with.
    Node.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    Replica.objects.update(wanted=False)
    eventually(lambda: check_status(503, predict(client)))
    Replica.objects.update(wanted=True)

    answer = eventually(lambda: check_status(201, predict(client)))

    check_books(shop, [answer.json()["id"]])


def check_status(status, response):
    assert response.status_code == status, response.text
    return response


def test_free_model_needs_no_wallet(shop):
    Price.objects.filter(pk=shop.price.pk).update(valid_until=timezone.now())
    Price.objects.create(
        model=shop.model,
        nanos_per_prediction=0,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )
    client = shop.client(APIKeyFactory(account=shop.creator).text)

    response = predict(client)

    assert (response.status_code, response.headers["x-cost-nano-usd"]) == (201, "0")
    check_books(shop, [response.json()["id"]], price_nanos=0)
    usage = UsageEvent.objects.get()
    assert (usage.gross_nanos, usage.transfer_id) == (0, None)


def test_test_key_runs_own_models_uncharged(shop):
    key = APIKeyFactory(account=shop.creator, mode=APIKey.Mode.TEST)

    response = predict(shop.client(key.text))

    assert (response.status_code, response.headers["x-cost-nano-usd"]) == (201, "0")
    usage = UsageEvent.objects.get()
    assert (usage.mode, usage.gross_nanos, usage.transfer_id) == ("test", 0, None)
    check_books(shop, [response.json()["id"]], price_nanos=0)


def test_owner_runs_a_private_model(shop):
    shop.model.visibility = "private"
    shop.model.save()
    key = APIKeyFactory(account=shop.creator, mode=APIKey.Mode.TEST)

    assert predict(shop.client(key.text)).status_code == 201


def test_concurrent_predictions_are_all_booked(shop, client):
    shop.fund(100 * PRICE_NANOS)

    responses = predict_many(client, 24)

    assert [one.status_code for one in responses] == [201] * 24
    check_books(shop, [one.json()["id"] for one in responses])


def test_concurrent_predictions_share_calls_and_get_their_own_answers(shop, client, triton):
    shop.fund(100 * PRICE_NANOS)
    before = triton.count_calls(shop.replica.pk)
    inputs = [[float(number), 0.0, 0.0, 0.0] for number in range(24)]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda x: predict(client, x=x, wait_s=0.05), inputs))

    assert [one.json()["output"]["y"][0] for one in answers] == [2 * x[0] for x in inputs]
    # In batches of four at the most, while two calls run: some go alone, most together.
    assert 24 / 4 <= triton.count_calls(shop.replica.pk) - before < 18
    check_books(shop, [one.json()["id"] for one in answers])


def test_a_neighbour_that_breaks_the_model_fails_alone(shop, client):
    shop.fund(100 * PRICE_NANOS)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        modes = ["ok", "ok", "fail", "nan"] * 3
        answers = list(pool.map(lambda mode: predict(client, mode=mode, wait_s=0.05), modes))

    codes = [one.status_code for one in answers]
    assert codes == [201, 201, 500, 500] * 3
    check_books(shop, [one.json()["id"] for one in answers if one.status_code == 201])


def test_credit_for_k_of_n_serves_exactly_k(shop, client):
    check_exactly_ten_of(predict_many(client, 24, wait_s=0.01))

    check_ten_booked(shop)


def check_exactly_ten_of(responses):
    statuses = sorted(one.status_code for one in responses)
    assert statuses == [201] * 10 + [402] * (len(responses) - 10)


def check_ten_booked(shop):
    answered = list(Prediction.objects.filter(state="succeeded").values_list("pk", flat=True))
    assert len(answered) == 10
    eventually(lambda: check_wallet_empty(shop))


def check_wallet_empty(shop):
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
    assert (wallet.posted_nanos, wallet.held_nanos) == (0, 0)


def test_key_use_is_noted_and_not_each_time(shop, client):
    predict(client)

    def check_noted():
        shop.key.refresh_from_db()
        assert shop.key.last_used_at is not None

    eventually(check_noted)
    noted_at = shop.key.last_used_at
    predict(client)
    shop.key.refresh_from_db()
    assert shop.key.last_used_at == noted_at


def test_slow_client_that_left_is_not_charged(shop):
    client = shop.client()
    client.timeout = 0.5

    with pytest.raises(Exception, match="timed out"):
        predict(client, wait_s=1)

    def check_recorded():
        rows = Prediction.objects.values_list("state", "error", "cost_nanos")
        assert list(rows) == [("canceled", "client_gone", 0)]

    eventually(check_recorded)
    check_nothing_booked(shop)
