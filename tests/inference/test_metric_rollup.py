"""Roll-ups: the same as counting, whatever comes late, twice, or after a pause."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import connection
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext

from billing.models import UsageEvent
from inference.core import histogram
from inference.models import ConsumerMetric, GatewayCounter, Metric, MetricCursor, NodeMetric
from inference.services import metric
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import Account
from tests.billing.conftest import PRICE_NANOS, fund, hold, settle, shop
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory
from tests.inference.monitored import NOON, run

__all__ = ["fund", "shop"]

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock(monkeypatch):
    """Sets the time of the roll-up."""

    def set_time(moment: datetime) -> None:
        monkeypatch.setattr(metric, "utc_now", lambda: moment)

    set_time(NOON)
    return set_time


@pytest.fixture
def version(account: Account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


def get_rows(resolution: str) -> list[Metric]:
    return list(Metric.objects.filter(resolution=resolution).order_by("starts_at", "version_id"))


def dump() -> list[tuple]:
    names = [one.attname for one in Metric._meta.concrete_fields if one.name != "id"]
    return sorted(Metric.objects.values_list(*names), key=str) + sorted(
        ConsumerMetric.objects.values_list(
            "model_id", "account_id", "resolution", "starts_at", "predictions", "gross_nanos"
        ),
        key=str,
    )


def test_counts_by_minute_hour_and_day(version, clock) -> None:
    consumer = AccountFactory(slug="consumer")
    for error in (
        "",
        "",
        "model_failed",
        "deadline",
        "capacity",
        "triton_unavailable",
        "invalid_tensor",
        "canceled",
    ):
        run(version, NOON - 2 * MINUTE, error=error, account=consumer)
    run(version, NOON - 70 * MINUTE, took_ms=2_000)

    metric.roll_up()

    minute = get_rows("minute")[-1]
    assert minute.starts_at == NOON - 2 * MINUTE
    assert (minute.predictions, minute.succeeded, minute.canceled) == (8, 2, 1)
    assert minute.failed_model == minute.failed_timeout == minute.failed_capacity == 1
    assert minute.failed_platform == minute.failed_input == 1
    assert dict(zip(minute.latency_buckets, minute.latency_counts, strict=True)) == {
        histogram.find_bucket(100_000): 2
    }
    assert [(row.starts_at.hour, row.predictions) for row in get_rows("hour")] == [
        (10, 1),
        (11, 8),
    ]
    (day,) = get_rows("day")
    assert (day.predictions, day.starts_at.hour, sum(day.latency_counts)) == (9, 0, 3)
    found = ConsumerMetric.objects.get(resolution="day", account_id=consumer.pk)
    assert (found.predictions, found.failed, found.model_id) == (8, 5, version.model_id)


def test_money_is_that_of_the_usage_events(shop, fund, clock) -> None:
    now = utc_now()
    fund(10_000)
    for _ in range(3):
        prediction_id = hold(shop)
        run(shop.version, now, account=shop.consumer, pk=prediction_id)
        assert settle(shop.item(prediction_id)) == ["settled"]
    clock(now + timedelta(seconds=1))

    metric.roll_up()

    events = UsageEvent.objects.aggregate(gross=Sum("gross_nanos"), creator=Sum("creator_nanos"))
    for rows in (Metric, ConsumerMetric):
        row = rows.objects.get(resolution="day")
        assert row.gross_nanos == events["gross"] == 3 * PRICE_NANOS
        assert row.creator_nanos == events["creator"] > 0
    assert ConsumerMetric.objects.get(resolution="day").account_id == shop.consumer.pk


def test_a_repeated_run_changes_nothing(version, clock) -> None:
    for minutes in range(1, 200, 7):
        run(version, NOON - minutes * MINUTE)
    metric.roll_up()
    once = dump()

    metric.roll_up()
    MetricCursor.objects.update(reached_at=NOON - timedelta(hours=5))
    metric.roll_up()

    assert dump() == once
    assert len(once) > 50


def test_a_late_row_is_taken_in_by_the_next_pass(version, clock) -> None:
    run(version, NOON - MINUTE)
    metric.roll_up()
    clock(NOON + 5 * MINUTE)
    metric.roll_up()
    # Booked five minutes after it came; the first pass is past its minute.
    run(version, NOON - MINUTE)
    metric.roll_up()
    assert get_rows("day")[0].predictions == 1

    clock(NOON + 20 * MINUTE)
    metric.roll_up()
    assert get_rows("day")[0].predictions == 2

    # And one that is later still.
    run(version, NOON - MINUTE)
    clock(NOON + timedelta(hours=7))
    metric.roll_up()
    assert get_rows("day")[0].predictions == 3


def test_the_running_minute_is_counted_and_not_passed(version, clock) -> None:
    clock(NOON + timedelta(seconds=30))
    run(version, NOON + timedelta(seconds=10))
    metric.roll_up()
    assert get_rows("minute")[0].predictions == 1

    run(version, NOON + timedelta(seconds=40))
    clock(NOON + timedelta(seconds=90))
    metric.roll_up()
    assert get_rows("minute")[0].predictions == 2


def test_after_a_pause_it_catches_up_in_bounded_runs(version, clock, monkeypatch) -> None:
    run(version, NOON - timedelta(hours=40))
    metric.roll_up()
    for hours in range(1, 40, 3):
        run(version, NOON - timedelta(hours=hours))
    MetricCursor.objects.update(reached_at=NOON - timedelta(hours=40))
    monkeypatch.setattr(metric, "RUN_MAX", timedelta(hours=4))

    minutes, runs = 1, 0
    while sum(row.predictions for row in get_rows("hour")) < 14:
        minutes = metric.roll_up()
        # Each of three passes goes its share, and one chunk more at most.
        assert minutes <= 3 * (4 * 60 + 10)
        runs += 1
        assert runs < 30
    assert runs > 5
    assert sum(row.predictions for row in get_rows("day")) == 14


def test_the_same_as_counting(version, clock) -> None:
    rng = random.Random(3)
    other = ModelVersionFactory(model=version.model, number=2)
    times = []
    for _ in range(300):
        took_ms = rng.lognormvariate(4, 1)
        run(
            rng.choice([version, other]),
            NOON - timedelta(seconds=rng.uniform(1, 6 * 3600)),
            took_ms=took_ms,
        )
        times.append(took_ms)

    metric.roll_up()

    for resolution in ("minute", "hour", "day"):
        rows = get_rows(resolution)
        assert sum(row.predictions for row in rows) == 300
        counts = histogram.add(
            dict(zip(row.latency_buckets, row.latency_counts, strict=True)) for row in rows
        )
        exact = sorted(times)[284]
        assert histogram.quantile_ms(counts, 0.95) == pytest.approx(
            exact, rel=histogram.ERROR_MAX * 1.001
        )


def test_what_is_old_is_forgotten_and_nothing_else(version, clock, settings) -> None:
    fields = {"model_id": version.model_id, "version_id": version.pk}
    ages = {
        "minute": timedelta(hours=settings.METRIC_MINUTE_HOURS),
        "hour": timedelta(days=settings.METRIC_HOUR_DAYS),
        "day": timedelta(days=settings.METRIC_DAY_DAYS),
    }
    for resolution, age in ages.items():
        for more in (timedelta(0), MINUTE):
            Metric.objects.create(resolution=resolution, starts_at=NOON - age - more, **fields)
    for one in metric.PASSES:
        MetricCursor.objects.create(name=one.name, reached_at=NOON)

    assert metric.forget() == 3
    assert Metric.objects.count() == 3
    assert metric.forget() == 0


def test_nothing_is_forgotten_that_a_pass_may_still_add_up(version, clock) -> None:
    fields = {"model_id": version.model_id, "version_id": version.pk}
    old = NOON - timedelta(hours=60)
    Metric.objects.create(resolution="minute", starts_at=old, **fields)
    for one in metric.PASSES:
        MetricCursor.objects.create(name=one.name, reached_at=old)

    assert metric.forget() == 0


def test_a_run_asks_a_bounded_number_of_statements(version, clock) -> None:
    for second in range(50):
        run(version, NOON - timedelta(seconds=second + 1))
    metric.roll_up()

    with CaptureQueriesContext(
        connection,
    ) as asked:
        metric.roll_up()

    assert len(asked) < 60


# --- Gateways ---------------------------------------------------------------------


def page(started_at: datetime, *, queue: tuple[int, int], limited: int, invalid: int = 0) -> str:
    labels = 'model="acme/digits",version="1"'
    queues = f"strongroom_gateway_queue_seconds_bucket{{{labels},le="
    answers = f'strongroom_gateway_requests_total{{{labels},protocol="native",outcome='
    return "\n".join(
        [
            f"process_start_time_seconds {started_at.timestamp()}",
            f'{queues}"0.0001"}} {queue[0]}',
            f'{queues}"+Inf"}} {sum(queue)}',
            f'{answers}"client_error",code="rate_limited"}} {limited}',
            f'{answers}"client_error",code="validation"}} {invalid}',
            f'{answers}"ok",code="ok"}} 99',
            f'{answers}"server_error",code="deadline"}} 9',
        ]
    )


def test_counters_are_added_as_differences(version, clock) -> None:
    version.number = 1
    version.save()
    started = NOON - timedelta(hours=5)
    metric.record_counters(url="http://g/metrics", text=page(started, queue=(5, 5), limited=7))
    # What an old process counted before is not of this minute.
    assert not Metric.objects.exists()

    later = page(started, queue=(6, 8), limited=9, invalid=2)
    metric.record_counters(url="http://g/metrics", text=later)
    metric.record_counters(url="http://g/metrics", text=later)

    (row,) = get_rows("minute")
    assert (row.refused_limit, row.refused_input, row.refused_capacity) == (2, 2, 0)
    assert dict(zip(row.queue_buckets, row.queue_counts, strict=True)) == {0: 1, 1: 3}

    # A roll-up of the same minute keeps them, and adds them up.
    run(version, NOON - timedelta(seconds=1))
    run(version, NOON + timedelta(seconds=1))
    clock(NOON + timedelta(seconds=5))
    metric.roll_up()
    row.refresh_from_db()
    assert (row.predictions, row.refused_limit) == (1, 2)
    hour = get_rows("hour")[-1]
    assert (hour.refused_limit, hour.queue_counts) == (2, [1, 3])


def test_another_process_counts_from_zero(version, clock) -> None:
    started = NOON - timedelta(hours=5)
    metric.record_counters(url="http://g/metrics", text=page(started, queue=(5, 5), limited=7))
    fresh = NOON - timedelta(seconds=20)
    metric.record_counters(url="http://g/metrics", text=page(fresh, queue=(1, 0), limited=3))

    (row,) = get_rows("minute")
    assert (row.refused_limit, row.queue_counts) == (3, [1])
    assert GatewayCounter.objects.count() == 2


def test_a_gateway_that_does_not_answer_is_passed_over(clock, settings) -> None:
    settings.GATEWAY_METRICS_URLS = ["http://127.0.0.1:1/metrics"]

    assert metric.read_gateways() == 0


@contextmanager
def serve_page(host: str, port: int, text: str) -> Iterator[int]:
    """A gateway's counters at an address of its own; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def resolve_to(monkeypatch, *hosts: str) -> list[tuple]:
    asked = []

    def look_up(name, port, **_how):
        asked.append((name, port))
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], 0, 0, "", (one, port)) for one in hosts]

    monkeypatch.setattr(metric.socket, "getaddrinfo", look_up)
    return asked


def test_each_gateway_behind_a_name_is_read(version, clock, settings, monkeypatch) -> None:
    started = NOON - timedelta(seconds=20)
    with (
        serve_page("127.0.0.1", 0, page(started, queue=(1, 0), limited=3)) as port,
        serve_page("::1", port, page(started, queue=(2, 0), limited=4)),
    ):
        url = f"http://127.0.0.1:{port}/metrics"
        settings.GATEWAY_METRICS_URLS = [url]
        real = socket.getaddrinfo
        assert metric.read_gateways() == 1
        GatewayCounter.objects.all().delete()
        settings.GATEWAY_METRICS_URLS = [f"dns+http://gateways:{port}/metrics"]
        asked = resolve_to(monkeypatch, "::1", "127.0.0.1", "::1")
        found = metric.list_gateways()
        monkeypatch.setattr(metric.socket, "getaddrinfo", real)
        monkeypatch.setattr(metric, "list_gateways", lambda: found)
        assert metric.read_gateways() == 2

    assert asked == [("gateways", port)]
    assert found == [f"http://{host}:{port}/metrics" for host in ("127.0.0.1", "[::1]")]
    assert GatewayCounter.objects.count() == 2


def test_a_name_with_many_addresses_is_read_up_to_the_limit(settings, monkeypatch, caplog) -> None:
    settings.GATEWAY_METRICS_URLS = ["dns+http://gateways/metrics", "http://one/metrics"]
    most = metric.GATEWAYS_MAX
    resolve_to(monkeypatch, *(f"10.0.0.{number}" for number in range(most)))
    assert len(metric.list_gateways()) == most + 1
    assert not caplog.records

    resolve_to(monkeypatch, *(f"10.0.0.{number}" for number in range(most + 1)))
    found = metric.list_gateways()
    assert len(found) == most + 1
    assert found[-1] == "http://one/metrics"
    assert f"{most} gateways of {most + 1} are read" in caplog.text


def test_an_address_of_version_6_stands_in_brackets(settings, monkeypatch) -> None:
    settings.GATEWAY_METRICS_URLS = ["dns+http://gateways:8001/metrics"]
    resolve_to(monkeypatch, "fd00::1")

    assert metric.list_gateways() == ["http://[fd00::1]:8001/metrics"]


def test_a_name_that_is_not_known_is_passed_over(settings, monkeypatch) -> None:
    settings.GATEWAY_METRICS_URLS = ["dns+http://gateways:8001/metrics", "http://one/metrics"]

    def fail(*_args, **_how):
        raise socket.gaierror

    monkeypatch.setattr(metric.socket, "getaddrinfo", fail)
    assert metric.list_gateways() == ["http://one/metrics"]


# --- Nodes ------------------------------------------------------------------------


def test_nodes_are_sampled_once_a_minute(clock, db) -> None:
    from inference.models import Node

    info = {"memory_total_bytes": 1_000, "memory_available_bytes": 400}
    node = Node.objects.create(
        name="n", token_digest=b"1", last_seen_at=NOON, info=info, pk=new_id()
    )
    Node.objects.create(
        name="liar",
        token_digest=b"2",
        last_seen_at=NOON,
        info={"memory_total_bytes": "much", "memory_available_bytes": -1},
    )
    Node.objects.create(
        name="quiet", token_digest=b"3", info=info, last_seen_at=NOON - timedelta(minutes=5)
    )

    metric.sample_nodes()
    metric.sample_nodes()

    row = NodeMetric.objects.get()
    assert (row.node_id, row.samples, row.memory_used_bytes_sum) == (node.pk, 1, 600)
    # No GPU is not an idle GPU.
    assert row.gpu_samples == 0
    clock(NOON + timedelta(seconds=50))
    metric.roll_up()
    assert NodeMetric.objects.filter(resolution="day", samples=1).exists()


def test_a_gpu_is_sampled_where_there_is_one(clock, db) -> None:
    from inference.models import Node

    gpus = [
        {"busy_bps": 4_000, "memory_used_bytes": 10, "memory_total_bytes": 40},
        {"busy_bps": 6_000, "memory_used_bytes": 30, "memory_total_bytes": 40},
    ]
    info = {"memory_total_bytes": 10, "memory_available_bytes": 10, "gpus": gpus}
    Node.objects.create(name="n", token_digest=b"1", last_seen_at=NOON, info=info)

    metric.sample_nodes()

    row = NodeMetric.objects.get()
    assert (row.gpu_samples, row.gpu_busy_bps_sum) == (1, 5_000)
    assert (row.gpu_memory_used_bytes_sum, row.gpu_memory_total_bytes) == (40, 80)
