"""What the gateway counts is what its clients saw, and only its operator sees it."""

from __future__ import annotations

import base64
import threading
import timeit
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from inference.gateway.config import (
    METRICS_TOKEN_LENGTH_MIN,
    OBSERVED_VERSIONS_MAX,
    GatewayConfig,
    _read_metrics_token,
)
from inference.gateway.metrics import COUNTS, Metrics
from inference.gateway.metrics_page import FAMILIES, _add_models
from inference.gateway.operations import is_loopback
from marketplace.core.env import SettingError
from marketplace.core.exposition import Histogram, Page
from tests.gateway.conftest import (
    PRICE_NANOS,
    REPLICA_IDS,
    X,
    make_node,
    predict,
    predict_many,
)
from tests.gateway.processes import eventually
from tests.gateway.scrape import Scrape

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "t" * METRICS_TOKEN_LENGTH_MIN
ECHO = {"model": "maker/echo", "version": "1"}
INFER = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [*X, *X]}],
}


def offer(number: int = 1):
    return SimpleNamespace(version_id=uuid4(), model="maker/echo", number=number)


# --- what is counted, against what a client saw ---


def check_counts(url: str, answered: int) -> None:
    """The count that must equal the client's; the negative control breaks it."""
    assert Scrape(url).sum("requests_total", **ECHO, protocol="native", code="ok") == answered


def test_counts_equal_what_clients_saw(shop, start_gateway):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    answered = [predict(client).status_code for _ in range(3)]
    assert predict(client, x=[1000, 1, 1, 1]).status_code == 422
    assert predict(client, mode="fail").status_code == 500
    answered += [one.status_code for one in predict_many(client, 5)]
    assert client.post("/v2/models/maker/echo/infer", json=INFER).status_code == 200
    assert predict(client).status_code == 402
    assert predict(shop.client("sk_live_wrong", url=gateway.url)).status_code == 401
    assert client.get("/nothing").status_code == 404

    assert answered == [201] * 8
    check_counts(gateway.url, 8)
    seen = Scrape(gateway.url)
    assert seen.sum("requests_total", **ECHO, protocol="oip", outcome="ok") == 1
    assert seen.sum("requests_total", **ECHO, outcome="client_error", code="validation") == 1
    failed = {"outcome": "server_error", "code": "model_failed"}
    assert seen.sum("requests_total", **ECHO, **failed) == 1
    assert seen.sum("requests_total", **ECHO, code="insufficient_credit") == 1
    assert seen.sum("requests_total", model="", code="unauthenticated", protocol="native") == 1
    assert seen.sum("requests_total", model="", code="not_found", protocol="none") == 1
    assert seen.sum("requests_total") == 14
    assert seen.sum("hold_refusals_total", code="insufficient_credit") == 1
    assert seen.sum("hold_seconds_count") == 11
    assert seen.sum("settle_seconds_count") == 9
    assert seen.sum("settle_failures_total") == 0
    assert seen.sum("request_seconds_count", **ECHO) == 9
    assert seen.sum("queue_seconds_count", **ECHO) == 10
    # Each row went to Triton once, also where several requests went together.
    assert seen.sum("triton_call_rows_sum", **ECHO) == 11
    assert seen.sum("triton_call_requests_sum", **ECHO) == 10
    calls = seen.sum("triton_call_seconds_count", **ECHO)
    assert calls == seen.sum("triton_call_rows_count", **ECHO)
    assert calls <= 10
    # The next scrape counts neither itself nor the one before.
    assert Scrape(gateway.url).sum("requests_total") == 14


def test_a_gateway_that_loses_count_is_noticed(shop, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:loses_count")
    client = shop.client(url=gateway.url)
    for _ in range(3):
        assert predict(client).status_code == 201

    with pytest.raises(AssertionError):
        check_counts(gateway.url, 3)


def test_replays_are_counted_as_such(shop, start_gateway):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    headers = {"Idempotency-Key": "k"}
    first, second = predict(client, headers=headers), predict(client, headers=headers)

    assert (first.status_code, second.status_code) == (201, 200)
    assert Scrape(gateway.url).sum("idempotent_replays_total", protocol="native") == 1
    assert Scrape(gateway.url).sum("triton_call_rows_sum", **ECHO) == 1


def test_a_retry_on_another_replica_is_counted(shop, start_gateway):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    lost = make_node("node-lost", "http://127.0.0.1:9")
    shop.add_replica(REPLICA_IDS[1], node=lost)

    def retried():
        # Several at once, so that both replicas are chosen.
        assert {one.status_code for one in predict_many(client, 4)} == {201}
        assert Scrape(gateway.url).sum("retries_total", **ECHO) >= 1

    shop.fund(100 * PRICE_NANOS)
    eventually(retried, timeout_s=30)


def test_what_waits_and_runs_is_shown_while_it_does(shop, start_gateway):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    threads = [
        threading.Thread(target=predict, args=(client,), kwargs={"wait_s": 3}) for _ in range(5)
    ]
    for one in threads:
        one.start()

    def shown():
        seen = Scrape(gateway.url)
        assert seen.sum("open_requests") == 5
        running = seen.sum("replica_running_requests", **ECHO)
        assert running + seen.sum("replica_waiting_requests", **ECHO) == 5
        assert running > 0

    eventually(shown, timeout_s=20)
    for one in threads:
        one.join()
    seen = Scrape(gateway.url)
    assert seen.sum("open_requests") == 0
    assert seen.sum("replica_running_requests") == 0


def test_caches_pool_and_process_are_shown(shop, start_gateway):
    gateway = start_gateway()
    client = shop.client(url=gateway.url)
    for _ in range(3):
        predict(client)

    seen = Scrape(gateway.url)
    assert seen.sum("cache_misses_total", cache="keys") == 1
    assert seen.sum("cache_hits_total", cache="keys") == 2
    assert seen.sum("cache_entries", cache="offers") == 1
    assert seen.sum("cache_hits_total", cache="offers") == 2
    assert seen.sum("changes_listening") == 1
    assert seen.sum("limits_shared") == 1
    assert seen.sum("database_connections") >= 1
    assert seen.sum("process_resident_memory_bytes") > 10_000_000
    assert seen.sum("process_cpu_seconds_total") > 0
    assert seen.sum("process_open_fds") > 3
    assert seen.sum("build_info") == 1
    assert {f"strongroom_gateway_{one}" for one in ("requests", "hold_seconds")} <= set(
        seen.families
    )


# --- who may look ---


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer " + "é" * METRICS_TOKEN_LENGTH_MIN, "Via": "1.1 proxy"},
        {"Authorization": f"Basic {base64.b64encode(f'u:{TOKEN}'.encode()).decode()}"}
        | {"X-Forwarded-For": "10.0.0.1"},
    ],
)
def test_strangers_do_not_see_the_metrics(shop, start_gateway, headers):
    gateway = start_gateway(STRONGROOM_GATEWAY_METRICS_TOKEN=TOKEN)
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    response = httpx.get(f"{gateway.url}/metrics", headers=list(raw.items()))

    assert response.status_code == 401
    assert response.json()["code"] == "unauthenticated"
    assert "strongroom_gateway" not in response.text


def test_the_operator_sees_them(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_METRICS_TOKEN=TOKEN)
    token = {"Authorization": f"Bearer {TOKEN}"}

    for headers in ({}, token, token | {"X-Forwarded-For": "203.0.113.7"}):
        assert Scrape(gateway.url, headers).sum("build_info") == 1


def test_without_a_token_no_proxy_opens_them(gateway):
    headers = {"X-Forwarded-For": "127.0.0.1", "Authorization": "Bearer"}
    assert httpx.get(f"{gateway.url}/metrics", headers=headers).status_code == 401


@pytest.mark.parametrize("token", [TOKEN, TOKEN[:-1]])
def test_a_short_token_stops_the_gateway(monkeypatch, token):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql:///x")
    monkeypatch.setenv("STRONGROOM_GATEWAY_METRICS_TOKEN", token)
    if token == TOKEN:
        assert GatewayConfig.from_env().metrics_token == TOKEN
        assert TOKEN not in repr(GatewayConfig.from_env())
        return
    with pytest.raises(SettingError, match="at least 16 characters"):
        GatewayConfig.from_env()


@pytest.mark.parametrize(
    ("peer", "is_ours"),
    [
        ("127.0.0.1:4000", True),
        ("127.9.9.9:4000", True),
        ("[::1]:4000", True),
        ("[::ffff:127.0.0.1]:4000", True),
        ("10.0.0.1:4000", False),
        ("[::ffff:10.0.0.1]:4000", False),
        ("[fe80::1]:4000", False),
        ("localhost:4000", False),
        ("", False),
    ],
)
def test_which_peers_are_of_this_machine(peer, is_ours):
    assert is_loopback(peer) is is_ours


# --- health ---


def test_live_and_ready_are_told_apart(gateway):
    assert httpx.get(f"{gateway.url}/health/live").json() == {"status": "ok"}
    ready = {"status": "ok", "database": True, "limits": "shared"}
    assert httpx.get(f"{gateway.url}/health/ready").json() == ready
    assert httpx.get(f"{gateway.url}/health").json() == ready
    for path in ("/health/other", "/metrics/x"):
        assert httpx.get(f"{gateway.url}{path}").status_code == 404
    for path in ("/health", "/metrics"):
        assert httpx.post(f"{gateway.url}{path}").status_code == 404


def test_a_full_gateway_still_tells_its_operator(shop, start_gateway):
    gateway = start_gateway(target="tests.gateway.broken:is_full")
    refused = predict(shop.client(url=gateway.url))

    assert (refused.status_code, refused.json()["code"]) == (503, "capacity")
    for path in ("/health/live", "/health/ready", "/health"):
        assert httpx.get(f"{gateway.url}{path}").status_code == 200
    assert Scrape(gateway.url).sum("requests_total", code="capacity") == 1


# --- the parts ---


@pytest.mark.parametrize(
    ("value", "bucket"), [(0, 0), (1, 0), (1.5, 1), (2, 1), (256, 8), (257, 9)]
)
def test_an_edge_belongs_to_the_bucket_that_it_ends(value, bucket):
    histogram = Histogram(COUNTS)
    histogram.observe(value)

    assert histogram.counts.index(1) == bucket
    assert histogram.total == value


def test_versions_beyond_the_limit_share_their_numbers():
    metrics = Metrics()
    for number in range(OBSERVED_VERSIONS_MAX + 2):
        metrics.observe_answer(offer(number), "native", 201, "ok", 0.1)
    page = Page(FAMILIES)
    _add_models(page, metrics)
    text = page.to_bytes().decode()

    assert len(metrics.by_version) == OBSERVED_VERSIONS_MAX
    assert metrics.other.requests == {("native", 201, "ok"): 2}
    labels = '{model="other",version="other",protocol="native",outcome="ok",code="ok"}'
    assert f"strongroom_gateway_requests_total{labels} 2" in text


def test_tokens_of_streams_are_counted():
    metrics = Metrics()
    series = metrics.of(offer())
    series.observe_first_token(0.2)
    for _ in range(3):
        series.observe_token(0.01)
    metrics.observe_settle_batch(5, 0.002)

    assert (series.first_token_seconds.count, series.token_seconds.count) == (1, 3)
    assert series.token_seconds.total == pytest.approx(0.03)
    assert (metrics.settle_batch_size.total, metrics.settle_batch_seconds.count) == (5, 1)


def test_label_values_cannot_break_a_line():
    page = Page(FAMILIES)
    page.add("retries_total", 1, {"model": 'a"\n\\'})

    assert page.to_bytes().decode().splitlines()[2:] == [
        'strongroom_gateway_retries_total{model="a\\"\\n\\\\"} 1'
    ]


def test_counting_is_cheap_beside_a_request():
    """By comparison on the same machine: one JSON body costs more than all that is counted."""
    metrics, one = Metrics(), offer()
    series = metrics.of(one)

    def count():
        metrics.observe_hold(0.001)
        metrics.observe_settle(0.001)
        series.queue_seconds.observe(0.001)
        metrics.observe_answer(one, "native", 201, "ok", 0.01)

    number = 20_000
    cost_s = min(timeit.repeat(count, number=number, repeat=5)) / number
    peer = min(timeit.repeat(lambda: uuid4().hex, number=number, repeat=5)) / number
    assert cost_s < 10 * peer


def test_every_family_is_named_as_prometheus_wants_it():
    for family in FAMILIES.values():
        assert family.name.endswith("_total") is (family.kind == "counter")
        assert family.help.endswith(".")


def test_failures_that_alerts_ask_for_are_there_before_the_first():
    metrics = Metrics()

    assert metrics.settle_failures["unavailable"] == metrics.settle_failures["booking_unknown"] == 0
    assert metrics.hold_refusals["unavailable"] == metrics.hold_refusals["deadline"] == 0
    metrics.observe_settle(0.1, "unavailable")
    assert metrics.settle_failures["unavailable"] == 1


def test_the_token_of_all_processes_opens_a_gateway_unless_it_has_its_own(monkeypatch):
    monkeypatch.delenv("STRONGROOM_GATEWAY_METRICS_TOKEN", raising=False)
    monkeypatch.setenv("STRONGROOM_METRICS_TOKEN", "a" * 32)
    assert _read_metrics_token() == "a" * 32
    monkeypatch.setenv("STRONGROOM_GATEWAY_METRICS_TOKEN", "b" * 16)
    assert _read_metrics_token() == "b" * 16
    monkeypatch.delenv("STRONGROOM_GATEWAY_METRICS_TOKEN")
    monkeypatch.setenv("STRONGROOM_METRICS_TOKEN", "a" * 31)
    with pytest.raises(SettingError, match="STRONGROOM_METRICS_TOKEN"):
        _read_metrics_token()
