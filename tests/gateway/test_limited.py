"""Limits as clients meet them: two gateway processes, one Redis, one database."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import time

import pytest

from inference.models import Prediction
from marketplace.models import Account, AIModel, APIKey
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    X,
    check_books,
    check_untouched,
    predict,
    problem_of,
)
from tests.gateway.limiting import OwnRedis
from tests.gateway.processes import eventually
from tests.gateway.scrape import Scrape

pytestmark = pytest.mark.django_db(transaction=True)

QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.fixture
def own_redis(tmp_path):
    server = OwnRedis(tmp_path)
    yield server
    server.resume()
    server.kill()


def limit(shop, **limits: int) -> None:
    """Set limits of a fresh key, which no gateway has seen yet."""
    shop.key = APIKeyFactory(account=shop.consumer, **limits)


def predict_everywhere(shop, urls: list[str], count: int, **given):
    """Predictions at all gateways at the same time."""
    clients = [shop.client(url=url) for url in urls]
    turns = itertools.islice(itertools.cycle(clients), count)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda client: predict(client, **given), turns))


def check_key_limit_holds(shop, urls: list[str]) -> None:
    """Of thirty requests at once, five go; the others cost nothing and say when to come."""
    shop.fund(30 * PRICE_NANOS)
    limit(shop, requests_per_minute=5)
    begun_s = time.monotonic()
    responses = predict_everywhere(shop, urls, 30)
    grown = int((time.monotonic() - begun_s) / 12)

    answered = [one for one in responses if one.status_code == 201]
    assert 5 <= len(answered) <= 5 + grown, f"{len(answered)} were let in"
    check_books(shop, [one.json()["id"] for one in answered])
    for one in responses:
        if one not in answered:
            assert problem_of(one) == (429, "rate_limited")
            assert 1 <= int(one.headers["retry-after"]) <= 12


def test_limit_of_a_key_holds_over_two_gateways(shop, gateway, start_gateway):
    check_key_limit_holds(shop, [gateway.url, start_gateway().url])


def test_limits_that_each_gateway_keeps_alone_are_noticed(shop, start_gateway):
    target = "tests.gateway.broken:keeps_limits_alone"
    urls = [start_gateway(target=target).url, start_gateway(target=target).url]

    with pytest.raises(AssertionError, match="10 were let in"):
        check_key_limit_holds(shop, urls)


def test_answers_say_where_the_caller_stands(shop):
    limit(shop, requests_per_minute=10, concurrency_max=20)
    client = shop.client()
    response = predict(client)

    assert response.headers["ratelimit"].startswith('"key-rpm";r=9;t=')
    policy = response.headers["ratelimit-policy"]
    assert policy.startswith('"key-rpm";q=10;w=60, "account-rpm";q=600000;w=60')
    assert '"key-conc";q=20;qu="concurrent-requests"' in policy
    assert "x-ratelimit-limit-requests" not in response.headers
    assert "x-ratelimit-scope" not in response.headers


def test_refusal_names_the_limit_and_is_not_charged(shop):
    limit(shop, requests_per_minute=1)
    client = shop.client()
    answered = predict(client)
    response = predict(client)

    assert problem_of(response) == (429, "rate_limited")
    document = response.json()
    assert document["type"] == QUOTA
    assert document["violated-policies"] == ["key-rpm"]
    assert document["retry_after_s"] == int(response.headers["retry-after"]) <= 60
    assert response.headers["ratelimit"].startswith('"key-rpm";r=0;t=')
    check_books(shop, [answered.json()["id"]])
    assert Prediction.objects.count() == 1


@pytest.mark.parametrize("_whose", ["account", "model"])
def test_changed_limits_of_account_and_model_count_at_once(shop, client, _whose):
    ids = [predict(client).json()["id"]]
    if _whose == "account":
        Account.objects.filter(pk=shop.consumer.pk).update(requests_per_minute=2)
    else:
        AIModel.objects.filter(pk=shop.model.pk).update(requests_per_minute=2)

    def check_refused():
        response = predict(client)
        if response.status_code == 201:
            ids.append(response.json()["id"])
        assert problem_of(response) == (429, "rate_limited")
        assert response.json()["violated-policies"] == [f"{_whose}-rpm"]

    shop.fund(100 * PRICE_NANOS)
    eventually(check_refused, timeout_s=20)
    # Another key of the account and the same model: the limit is shared.
    other = APIKeyFactory(account=shop.consumer)
    assert problem_of(predict(shop.client(other.text))) == (429, "rate_limited")
    check_books(shop, ids)


def test_changed_limit_of_a_key_counts_at_once(shop, client):
    predict(client)
    APIKey.objects.filter(pk=shop.key.pk).update(concurrency_max=1, requests_per_minute=1)

    def check_limited():
        assert '"key-rpm";q=1;w=60' in predict(client).headers["ratelimit-policy"]

    eventually(check_limited, timeout_s=20)


def test_cap_of_a_key_holds_over_two_gateways(shop, gateway, start_gateway):
    limit(shop, concurrency_max=2)
    urls = [gateway.url, start_gateway().url]
    responses = predict_everywhere(shop, urls, 8, wait_s=3)

    answered = [one for one in responses if one.status_code == 201]
    assert len(answered) == 2
    for one in responses:
        if one not in answered:
            assert problem_of(one) == (429, "concurrency_limited")
            assert one.headers["retry-after"] == "1"
            assert one.json()["violated-policies"] == ["key-conc"]
    check_books(shop, [one.json()["id"] for one in answered])

    def check_free():
        assert predict(shop.client()).status_code == 201

    eventually(check_free)


def test_places_of_failed_requests_come_back(shop):
    limit(shop, concurrency_max=1)
    client = shop.client()
    for _ in range(3):
        # A prediction that fails, and one that is not paid for.
        assert predict(client, mode="fail").status_code == 500

    def check_free():
        assert predict(client).status_code == 201

    eventually(check_free)


def test_places_of_a_killed_gateway_come_back(shop, client, start_gateway):
    limit(shop, concurrency_max=1)
    killed = start_gateway()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        lost = pool.submit(predict, shop.client(url=killed.url), wait_s=8)

        def check_refused():
            assert problem_of(predict(shop.client(), wait_s=0.2)) == (429, "concurrency_limited")

        eventually(check_refused, timeout_s=20)
        killed.kill()
        assert lost.exception(30) is not None

    def check_free():
        assert predict(shop.client()).status_code == 201

    eventually(check_free, timeout_s=30)


def test_retry_with_a_key_counts_once(shop):
    limit(shop, requests_per_minute=1)
    client = shop.client()
    first = predict(client, headers={"Idempotency-Key": "a"})
    for _ in range(3):
        again = predict(client, headers={"Idempotency-Key": "a"})
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    refused = predict(client, headers={"Idempotency-Key": "b"})
    assert problem_of(refused) == (429, "rate_limited")
    # What was refused has not used its key up.
    assert Prediction.objects.count() == 1


def test_too_many_units_are_refused_for_good(shop):
    limit(shop, units_per_minute=3)
    client = shop.client()

    def infer(rows: int):
        names = [("x", "FP32", [rows, 4], X * rows), ("note", "BYTES", [rows, 1], [""] * rows)]
        names += [("mode", "BYTES", [rows, 1], ["ok"] * rows)]
        names += [("wait_s", "FP32", [rows, 1], [0] * rows)]
        inputs = [
            {"name": name, "datatype": datatype, "shape": shape, "data": data}
            for name, datatype, shape, data in names
        ]
        return client.post("/v2/models/maker/echo/infer", json={"inputs": inputs})

    response = infer(4)
    assert response.status_code == 429, response.text
    assert "4 units; key-upm allows 3 a minute" in response.json()["error"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    check_untouched(shop)
    assert infer(3).status_code == 200
    late = infer(1)
    assert (late.status_code, set(late.json())) == (429, {"error"})
    assert "key-upm" in late.json()["error"]


def test_openai_clients_get_their_code_and_their_headers(language):
    limit(language, requests_per_minute=1)
    client = language.client()
    body = {"model": "maker/vectors", "input": "a text"}
    response = client.post("/openai/v1/embeddings", json=body)
    assert response.status_code == 200
    assert response.headers["x-ratelimit-limit-requests"] == "1"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert response.headers["x-ratelimit-reset-requests"].endswith("s")

    refused = client.post("/openai/v1/embeddings", json=body)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "rate_limit_error",
        "rate_limit_exceeded",
        None,
    )
    assert "key-rpm" in error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    "_path",
    [
        "/v1/predictions",
        "/v1/models/maker/echo",
        "/v2/models/maker/echo",
        "/openai/v1/models",
    ],
)
def test_reads_are_limited(shop, start_gateway, _path):
    url = start_gateway(STRONGROOM_GATEWAY_READS_PER_MINUTE="3").url
    client = shop.client(url=url)

    assert [client.get(_path).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert predict(client).status_code == 201


def test_predictions_go_on_without_redis(shop, own_redis, start_gateway):
    url = start_gateway(
        STRONGROOM_REDIS_URL=own_redis.url, STRONGROOM_GATEWAY_REDIS_WAIT_MS="300"
    ).url
    limit(shop, requests_per_minute=3)
    client = shop.client(url=url)

    def health() -> str:
        document = json.loads(client.get("/health").read())
        assert document["status"] == "ok"
        return document["limits"]

    def check_health(expected: str):
        assert health() == expected
        assert Scrape(url).sum("limits_shared") == (expected == "shared")

    eventually(lambda: check_health("shared"))
    ids = [predict(client).json()["id"]]
    for stop, start in ((own_redis.pause, own_redis.resume), (own_redis.kill, own_redis.start)):
        stop()
        response = predict(client)
        if response.status_code == 201:
            ids.append(response.json()["id"])
        eventually(lambda: check_health("local"))
        response = predict(client)
        assert response.headers["x-ratelimit-scope"] == "local"
        if response.status_code == 201:
            ids.append(response.json()["id"])
        start()
        eventually(lambda: check_health("shared"), timeout_s=30)
    assert len(ids) >= 3
    check_books(shop, ids)
