"""What was counted, in the text format of Prometheus, put together when it is asked for.

Source: Prometheus, "Exposition formats", text-based format 0.0.4.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from inference.gateway.config import OBSERVED_REPLICAS_MAX
from inference.gateway.metrics import Metrics, Series
from marketplace.core.exposition import (
    OTHER,
    PROCESS_FAMILIES,
    Family,
    Histogram,
    Page,
    describe_build,
    read_process,
)
from marketplace.core.ids import to_public

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

_BREAKER_VALUES = {"closed": 0, "half_open": 0.5, "open": 1}


_PREFIX = "strongroom_gateway_"
FAMILIES = {
    family.name.removeprefix(_PREFIX): family
    for family in (
        Family(f"{_PREFIX}requests_total", "counter", "Requests that were answered."),
        Family(
            f"{_PREFIX}request_seconds",
            "histogram",
            "From the arrival of a request to its answer, successes only.",
        ),
        Family(
            f"{_PREFIX}queue_seconds",
            "histogram",
            "How long a request waited before it left for a replica.",
        ),
        Family(f"{_PREFIX}triton_call_seconds", "histogram", "Time of one call to Triton."),
        Family(f"{_PREFIX}triton_call_rows", "histogram", "Rows of one call to Triton."),
        Family(
            f"{_PREFIX}triton_call_requests",
            "histogram",
            "Requests that went to Triton in one call.",
        ),
        Family(
            f"{_PREFIX}cold_start_seconds",
            "histogram",
            "How long a request waited for a sleeping version, until it was loaded.",
        ),
        Family(
            f"{_PREFIX}first_token_seconds",
            "histogram",
            "From the arrival of a request to the first token of its stream.",
        ),
        Family(f"{_PREFIX}token_seconds", "histogram", "From one token of a stream to the next."),
        Family(
            f"{_PREFIX}retries_total",
            "counter",
            "Predictions that went to another replica because one had failed.",
        ),
        Family(
            f"{_PREFIX}idempotent_replays_total",
            "counter",
            "Retries that were answered with what was booked before.",
        ),
        Family(f"{_PREFIX}hold_seconds", "histogram", "Time to reserve the money."),
        Family(f"{_PREFIX}hold_refusals_total", "counter", "Predictions without a hold, and why."),
        Family(
            f"{_PREFIX}settle_seconds",
            "histogram",
            "How long a finished prediction waited for its booking.",
        ),
        Family(
            f"{_PREFIX}settle_failures_total",
            "counter",
            "Finished predictions that were not booked, and why.",
        ),
        Family(f"{_PREFIX}settle_batch_size", "histogram", "Predictions booked by one commit."),
        Family(f"{_PREFIX}settle_batch_seconds", "histogram", "Time of one booking commit."),
        Family(f"{_PREFIX}open_requests", "gauge", "Requests that have no answer yet."),
        Family(
            f"{_PREFIX}waking_requests",
            "gauge",
            "Requests that wait for a version to be loaded.",
        ),
        Family(
            f"{_PREFIX}replica_waiting_requests",
            "gauge",
            "Requests that wait in this gateway for a replica.",
        ),
        Family(
            f"{_PREFIX}replica_running_requests",
            "gauge",
            "Requests of this gateway that run on a replica.",
        ),
        Family(
            f"{_PREFIX}replica_breaker",
            "gauge",
            "0 while requests go to a replica, 1 while nothing is sent there because it kept"
            " failing, 0.5 while one request tries it.",
        ),
        Family(f"{_PREFIX}cache_hits_total", "counter", "Look-ups that a cache answered."),
        Family(f"{_PREFIX}cache_misses_total", "counter", "Look-ups that Postgres was asked for."),
        Family(f"{_PREFIX}cache_entries", "gauge", "What a cache keeps now."),
        Family(f"{_PREFIX}database_connections", "gauge", "Connections of the pool, used or idle."),
        Family(f"{_PREFIX}database_waiting", "gauge", "Statements that wait for a connection."),
        Family(
            f"{_PREFIX}changes_listening",
            "gauge",
            "1 while changes are heard from Postgres; at 0 nothing is cached.",
        ),
        Family(
            f"{_PREFIX}limits_shared",
            "gauge",
            "1 while limits are shared through Redis; at 0 each gateway keeps its part.",
        ),
        Family(
            f"{_PREFIX}jobs_waiting",
            "gauge",
            "Predictions that wait in the queue, of all gateways; seen up to 15 s ago.",
        ),
        Family(
            f"{_PREFIX}jobs_oldest_seconds",
            "gauge",
            "How long the first of them has waited; 0 while none does.",
        ),
        Family(f"{_PREFIX}jobs_dead", "gauge", "Predictions that no node could run."),
        Family(
            "strongroom_pool_demand_nodes",
            "gauge",
            "Nodes that a pool should have, with fractions, without bounds: by part, for the queue"
            " (of all gateways) and for the requests of this one.",
        ),
        Family(
            "strongroom_pool_predicted_wait_seconds",
            "gauge",
            "How long a job that comes now will probably wait.",
        ),
        Family(
            "strongroom_pool_pending_requests",
            "gauge",
            "Requests of this gateway that have no answer from a replica yet.",
        ),
        Family("strongroom_pool_ready_nodes", "gauge", "Nodes of a pool that answer."),
        Family(f"{_PREFIX}build_info", "gauge", "1; what runs, in its labels."),
        *PROCESS_FAMILIES,
    )
}


def render(gateway: Gateway, metrics: Metrics) -> bytes:
    """The whole page."""
    page = Page(FAMILIES)
    _add_models(page, metrics)
    _add_bookings(page, metrics)
    _add_state(page, gateway, metrics)
    _add_process(page)
    return page.to_bytes()


def _add_models(page: Page, metrics: Metrics) -> None:
    for series in (metrics.without_model, *metrics.by_version.values(), metrics.other):
        labels = {"model": series.model, "version": series.version}
        for (protocol, status, code), count in series.requests.items():
            outcome = {"protocol": protocol, "outcome": _classify(status), "code": code}
            page.add("requests_total", count, labels | outcome)
        if series.retries:
            page.add("retries_total", series.retries, labels)
        for name, histogram in _list_histograms(series):
            page.add_histogram(name, histogram, labels)


def _list_histograms(series: Series) -> list[tuple[str, Histogram]]:
    return [
        ("request_seconds", series.request_seconds),
        ("queue_seconds", series.queue_seconds),
        ("triton_call_seconds", series.call_seconds),
        ("triton_call_rows", series.call_rows),
        ("triton_call_requests", series.call_requests),
        ("cold_start_seconds", series.cold_start_seconds),
        ("first_token_seconds", series.first_token_seconds),
        ("token_seconds", series.token_seconds),
    ]


def _classify(status: int) -> str:
    if status < 400:
        return "ok"
    return "client_error" if status < 500 else "server_error"


def _add_bookings(page: Page, metrics: Metrics) -> None:
    page.add_counts("idempotent_replays_total", "protocol", metrics.replays)
    page.add_counts("hold_refusals_total", "code", metrics.hold_refusals)
    page.add_counts("settle_failures_total", "code", metrics.settle_failures)
    page.add_histogram("hold_seconds", metrics.hold_seconds)
    page.add_histogram("settle_seconds", metrics.settle_seconds)
    page.add_histogram("settle_batch_size", metrics.settle_batch_size)
    page.add_histogram("settle_batch_seconds", metrics.settle_batch_seconds)


def _add_state(page: Page, gateway: Gateway, metrics: Metrics) -> None:
    page.add("open_requests", gateway.requests_open)
    page.add("waking_requests", gateway.waking.waiting)
    _add_replicas(page, gateway, metrics)
    for name, cache in (
        ("keys", gateway.authenticator.callers),
        ("offers", gateway.catalog.offers),
    ):
        labels = {"cache": name}
        page.add("cache_hits_total", cache.hits, labels)
        page.add("cache_misses_total", cache.misses, labels)
        page.add("cache_entries", len(cache), labels)
    used, idle, waiting = gateway.database.count_connections()
    page.add("database_connections", used, {"state": "used"})
    page.add("database_connections", idle, {"state": "idle"})
    page.add("database_waiting", waiting)
    page.add("changes_listening", int(gateway.changes.is_listening))
    page.add("limits_shared", int(gateway.limits.store.is_up))
    _add_queue(page, gateway)
    _add_pools(page, gateway)


def _add_pools(page: Page, gateway: Gateway) -> None:
    pending = [(one.version_id, one.calls.load) for one in gateway.routes.list_replicas()]
    asked = gateway.demand.count_requests([*pending, *gateway.waking.list_waiting()])
    queue = gateway.demand.queue or {}
    for pool, one in queue.items():
        labels = {"pool": pool}
        page.add("strongroom_pool_demand_nodes", one.nodes, labels | {"part": "queue"})
        page.add("strongroom_pool_predicted_wait_seconds", one.wait_s, labels)
        page.add("strongroom_pool_ready_nodes", one.ready_count, labels)
    for pool, requests in asked.items():
        labels = {"pool": pool}
        page.add("strongroom_pool_demand_nodes", requests.nodes, labels | {"part": "requests"})
        page.add("strongroom_pool_pending_requests", requests.pending, labels)


def _add_queue(page: Page, gateway: Gateway) -> None:
    seen = gateway.queue_watch.seen
    if seen is None:
        return
    for one in seen.classes:
        page.add("jobs_waiting", one.waiting, {"class": one.name})
        page.add("jobs_oldest_seconds", one.oldest_s, {"class": one.name})
    page.add("jobs_dead", seen.dead)


def _add_replicas(page: Page, gateway: Gateway, metrics: Metrics) -> None:
    others = [0, 0]
    for index, replica in enumerate(gateway.routes.list_replicas()):
        waiting = replica.calls.waiting
        running = replica.calls.load - waiting
        if index >= OBSERVED_REPLICAS_MAX:
            others[0] += waiting
            others[1] += running
            continue
        series = metrics.by_version.get(replica.version_id, metrics.without_model)
        labels = {
            "model": series.model,
            "version": series.version,
            "replica": to_public(replica.id),
        }
        page.add("replica_waiting_requests", waiting, labels)
        page.add("replica_running_requests", running, labels)
        page.add("replica_breaker", _BREAKER_VALUES[replica.breaker.state], labels)
    if any(others):
        labels = {"model": OTHER, "version": OTHER, "replica": OTHER}
        page.add("replica_waiting_requests", others[0], labels)
        page.add("replica_running_requests", others[1], labels)


def _add_process(page: Page) -> None:
    page.add("build_info", 1, describe_build() | {"granian": importlib.metadata.version("granian")})
    for name, value in read_process().items():
        page.add(name, value)
