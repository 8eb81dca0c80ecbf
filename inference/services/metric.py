"""Roll predictions up: per minute, from these per hour, and from these per day.

A minute is always written as a whole from the predictions themselves, so a run may be repeated,
and rows that come late are in it as soon as its minute is looked at again. Three passes do
that, each with a cursor of its own: at once, a quarter of an hour later, and six hours later.
A cursor moves in the transaction that wrote what it has passed; after a pause, each run takes
so many minutes more, in their order.

What only the gateways count (queue, first token, refusals) is added to the minute in which it
is read, as the difference to what the same process said before.
"""

from __future__ import annotations

import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from inference.core import histogram
from inference.models import (
    GatewayCounter,
    Metric,
    MetricCursor,
    Node,
    NodeMetric,
    Prediction,
    Resolution,
)
from inference.selectors.node import QUIET_AFTER
from inference.triton.metrics import parse_samples
from marketplace.core.clock import utc_now
from marketplace.core.ids import lowest_id
from marketplace.models import ModelVersion

logger = logging.getLogger(__name__)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pass:
    """One of the looks at each minute."""

    name: str
    lag: timedelta
    # Minutes before the cursor that are done again.
    again: timedelta


PASSES = (
    # Also the minute that still runs, and those whose predictions may just have been booked.
    Pass("fresh", timedelta(0), 2 * MINUTE),
    Pass("settled", timedelta(minutes=15), timedelta(0)),
    Pass("final", timedelta(hours=6), timedelta(0)),
)
# One statement reads the predictions of so many minutes, and a run of a pass so many in all.
CHUNK = timedelta(minutes=10)
RUN_MAX = timedelta(hours=12)
RUN_LIMIT_S = 40.0
# Rows that one run forgets of one table; the next run goes on.
FORGET_MAX = 50_000
# A page of counters is far smaller; what is longer is no gateway.
PAGE_BYTES_MAX = 16 << 20
PAGE_LIMIT_S = 5.0
# Of all gateways together; those that hang must not keep this from its next minute.
PAGES_LIMIT_S = 30.0
# Behind one name.
GATEWAYS_MAX = 32
RESOLVED = "dns+http://"
# Counts of a process that was started longer ago are not those of the last minutes.
NEW_PROCESS = timedelta(minutes=5)
# A gateway that has not answered for so long is gone.
COUNTERS_KEPT = timedelta(days=1)

# The codes that a failed prediction is recorded with, by whose fault it was.
FAILURES: dict[str, tuple[str, ...]] = {
    "input": ("validation", "invalid_tensor", "invalid_parameter", "bad_request"),
    "model": ("model_failed", "output_invalid"),
    "timeout": ("deadline", "request_timeout"),
    "capacity": ("capacity", "queue_full", "model_not_ready"),
}
# Answers of a gateway to requests that never became a prediction.
REFUSALS: dict[str, frozenset[str]] = {
    "limit": frozenset(
        {
            "rate_limited",
            "concurrency_limited",
            "limit_exceeded",
            "query_budget_exceeded",
            "query_budget_spent",
            "units_exceed_limit",
        }
    ),
    "credit": frozenset({"insufficient_credit", "budget_exceeded", "invoice_past_due"}),
    "capacity": frozenset(
        {"capacity", "queue_full", "model_not_ready", "model_waking", "wake_queue_full"}
    ),
}

COUNTERS = (
    *("predictions", "succeeded", "canceled", "failed_input", "failed_model", "failed_timeout"),
    *("failed_capacity", "failed_platform", "rows", "gross_nanos", "creator_nanos"),
)
REFUSED = ("refused_input", "refused_limit", "refused_credit", "refused_capacity")
HISTOGRAMS = ("latency", "queue", "first_token")
CONSUMER_COUNTERS = ("predictions", "failed", "gross_nanos", "creator_nanos")

_MINUTES = f"""
    WITH run AS MATERIALIZED (
        SELECT p.version_id, v.model_id, p.account_id, p.state, p.error, p.rows,
            date_trunc('minute', COALESCE(uuid_extract_timestamp(p.id), %(since)s)) AS at,
            COALESCE(u.gross_nanos, 0) AS gross, COALESCE(u.creator_nanos, 0) AS creator,
            EXTRACT(EPOCH FROM p.completed_at - p.created_at)::double precision * 1e6 AS us
        FROM inference_prediction p JOIN marketplace_modelversion v ON v.id = p.version_id
        LEFT JOIN billing_usageevent u ON u.prediction_id = p.id
            AND u.prediction_id >= %(low)s AND u.prediction_id < %(high)s
        WHERE p.id >= %(low)s AND p.id < %(high)s
            AND p.state IN ('succeeded', 'failed', 'canceled')
    ), counted AS (
        SELECT version_id, model_id, at, count(*) AS predictions,
            count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE state = 'canceled') AS canceled,
            count(*) FILTER (WHERE state = 'failed' AND error = ANY(%(input)s)) AS failed_input,
            count(*) FILTER (WHERE state = 'failed' AND error = ANY(%(model)s)) AS failed_model,
            count(*) FILTER (WHERE state = 'failed' AND error = ANY(%(timeout)s))
                AS failed_timeout,
            count(*) FILTER (WHERE state = 'failed' AND error = ANY(%(capacity)s))
                AS failed_capacity,
            count(*) FILTER (WHERE state = 'failed' AND NOT error = ANY(%(known)s))
                AS failed_platform,
            sum(rows) AS rows, sum(gross) AS gross_nanos, sum(creator) AS creator_nanos
        FROM run GROUP BY version_id, model_id, at
    ), buckets AS (
        SELECT version_id, at, count(*)::integer AS n, LEAST({histogram.LAST},
            CEIL(LN(GREATEST(us, {histogram.FLOOR_US}) / {histogram.FLOOR_US})
                / LN({histogram.GROWTH}::double precision)))::integer AS bucket
        FROM run WHERE state = 'succeeded' AND us IS NOT NULL GROUP BY 1, 2, 4
    ), latency AS (
        SELECT version_id, at, array_agg(bucket ORDER BY bucket) AS latency_buckets,
            array_agg(n ORDER BY bucket) AS latency_counts
        FROM buckets GROUP BY 1, 2
    ), metric AS (
        INSERT INTO inference_metric (model_id, version_id, resolution, starts_at,
            {", ".join(COUNTERS)}, latency_buckets, latency_counts, {", ".join(REFUSED)},
            queue_buckets, queue_counts, first_token_buckets, first_token_counts)
        SELECT c.model_id, c.version_id, 'minute', c.at, {", ".join(f"c.{n}" for n in COUNTERS)},
            COALESCE(l.latency_buckets, '{{}}'), COALESCE(l.latency_counts, '{{}}'),
            0, 0, 0, 0, '{{}}', '{{}}', '{{}}', '{{}}'
        FROM counted c LEFT JOIN latency l USING (version_id, at)
        ON CONFLICT (model_id, resolution, starts_at, version_id) DO UPDATE SET
            {", ".join(f"{n} = EXCLUDED.{n}" for n in COUNTERS)},
            latency_buckets = EXCLUDED.latency_buckets, latency_counts = EXCLUDED.latency_counts
        RETURNING 1
    ), consumer AS (
        INSERT INTO inference_consumermetric (model_id, account_id, resolution, starts_at,
            {", ".join(CONSUMER_COUNTERS)})
        SELECT model_id, account_id, 'minute', at, count(*),
            count(*) FILTER (WHERE state = 'failed'), sum(gross), sum(creator)
        FROM run GROUP BY model_id, account_id, at
        ON CONFLICT (model_id, resolution, starts_at, account_id) DO UPDATE SET
            {", ".join(f"{n} = EXCLUDED.{n}" for n in CONSUMER_COUNTERS)}
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM metric) + (SELECT count(*) FROM consumer)
"""  # noqa: S608 - put together from constants


def _merge_histogram(name: str) -> str:
    return f"""
        {name} AS (
            SELECT version_id, at, array_agg(bucket ORDER BY bucket) AS {name}_buckets,
                array_agg(n ORDER BY bucket) AS {name}_counts
            FROM (
                SELECT p.version_id, p.at, b.bucket, sum(b.n)::integer AS n
                FROM part p, unnest(p.{name}_buckets, p.{name}_counts) AS b(bucket, n)
                GROUP BY 1, 2, 3
            ) merged GROUP BY 1, 2
        )
    """  # noqa: S608 - put together from constants


_MERGED = [f"{name}_{part}" for name in HISTOGRAMS for part in ("buckets", "counts")]
_LONGER = f"""
    WITH part AS MATERIALIZED (
        SELECT *, date_trunc(%(long)s, starts_at) AS at FROM inference_metric
        WHERE resolution = %(short)s AND starts_at >= %(since)s AND starts_at < %(until)s
    ), {", ".join(_merge_histogram(name) for name in HISTOGRAMS)}
    INSERT INTO inference_metric (model_id, version_id, resolution, starts_at,
        {", ".join((*COUNTERS, *REFUSED, *_MERGED))})
    SELECT s.model_id, s.version_id, %(long)s, s.at,
        {", ".join(f"s.{n}" for n in (*COUNTERS, *REFUSED))},
        {", ".join(f"COALESCE({n}, '{{}}')" for n in _MERGED)}
    FROM (
        SELECT model_id, version_id, at,
            {", ".join(f"sum({n}) AS {n}" for n in (*COUNTERS, *REFUSED))}
        FROM part GROUP BY 1, 2, 3
    ) s {" ".join(f"LEFT JOIN {name} USING (version_id, at)" for name in HISTOGRAMS)}
    ON CONFLICT (model_id, resolution, starts_at, version_id) DO UPDATE SET
        {", ".join(f"{n} = EXCLUDED.{n}" for n in (*COUNTERS, *REFUSED, *_MERGED))}
"""  # noqa: S608 - put together from constants
_LONGER_CONSUMERS = f"""
    INSERT INTO inference_consumermetric (model_id, account_id, resolution, starts_at,
        {", ".join(CONSUMER_COUNTERS)})
    SELECT model_id, account_id, %(long)s, date_trunc(%(long)s, starts_at),
        {", ".join(f"sum({n})" for n in CONSUMER_COUNTERS)}
    FROM inference_consumermetric
    WHERE resolution = %(short)s AND starts_at >= %(since)s AND starts_at < %(until)s
    GROUP BY 1, 2, 4
    ON CONFLICT (model_id, resolution, starts_at, account_id) DO UPDATE SET
        {", ".join(f"{n} = EXCLUDED.{n}" for n in CONSUMER_COUNTERS)}
"""  # noqa: S608 - put together from constants
_NODE_SUMS = (
    *("samples", "memory_used_bytes_sum", "gpu_samples"),
    *("gpu_busy_bps_sum", "gpu_memory_used_bytes_sum"),
)
_NODE_TOTALS = ("memory_total_bytes", "gpu_memory_total_bytes")
_LONGER_NODES = f"""
    INSERT INTO inference_nodemetric (node_id, resolution, starts_at,
        {", ".join((*_NODE_SUMS, *_NODE_TOTALS))})
    SELECT node_id, %(long)s, date_trunc(%(long)s, starts_at),
        {", ".join(f"sum({n})" for n in _NODE_SUMS)},
        {", ".join(f"max({n})" for n in _NODE_TOTALS)}
    FROM inference_nodemetric
    WHERE resolution = %(short)s AND starts_at >= %(since)s AND starts_at < %(until)s
    GROUP BY 1, 3
    ON CONFLICT (node_id, resolution, starts_at) DO UPDATE SET
        {", ".join(f"{n} = EXCLUDED.{n}" for n in (*_NODE_SUMS, *_NODE_TOTALS))}
"""  # noqa: S608 - put together from constants
_TABLES = ("inference_metric", "inference_consumermetric", "inference_nodemetric")


def roll_up() -> int:
    """Bring the numbers up to date; returns how many minutes were written anew."""
    end_s = time.monotonic() + RUN_LIMIT_S
    count = sum(_run_pass(one, end_s) for one in PASSES)
    forget()
    return count


def _run_pass(one: Pass, end_s: float) -> int:
    count, left = 0, RUN_MAX
    while left > timedelta(0) and time.monotonic() < end_s:
        done = _run_chunk(one)
        if done is None:
            break
        left -= done
        count += done // MINUTE
    return count


@transaction.atomic
def _run_chunk(one: Pass) -> timedelta | None:
    """Write some minutes; returns how many, None if there is nothing more to do."""
    cursor = _lock_cursor(one)
    # Locked by another run; or there is nothing yet that could be counted.
    if cursor is None:
        return None
    until_max = _floor(utc_now() - one.lag, MINUTE)
    is_fresh = not one.lag
    since = cursor.reached_at - one.again
    until = min(since + max(CHUNK, one.again), until_max)
    is_last = until >= until_max
    # The minute that still runs is written, and not passed.
    written_until = until + MINUTE if is_fresh and is_last else until
    if written_until <= since:
        return None
    parameters: dict[str, Any] = {
        "since": since,
        "low": lowest_id(since),
        "high": lowest_id(written_until),
        "known": [code for codes in FAILURES.values() for code in codes],
        **{name: list(codes) for name, codes in FAILURES.items()},
    }
    with connection.cursor() as sql:
        sql.execute(_MINUTES, parameters)
        is_changed = sql.fetchone()[0] > 0
    if is_changed or (is_fresh and is_last):
        roll_longer(since, written_until)
    cursor.reached_at = until
    cursor.save()
    return None if is_last else until - since


def _lock_cursor(one: Pass) -> MetricCursor | None:
    rows = MetricCursor.objects.filter(name=one.name)
    cursor = rows.select_for_update(skip_locked=True).first()
    if cursor is None and not rows.exists():
        kept_since = utc_now() - timedelta(hours=settings.METRIC_MINUTE_HOURS)
        first = Prediction.objects.filter(pk__gte=lowest_id(kept_since)).order_by("pk").first()
        began_at = first.created_at if first else utc_now()
        cursor, is_new = MetricCursor.objects.get_or_create(
            name=one.name, defaults={"reached_at": _floor(began_at, HOUR)}
        )
        return cursor if is_new else None
    return cursor


def roll_longer(since: datetime, until: datetime) -> None:
    """Write the hours and days that these minutes belong to."""
    for short, long, span in (
        (Resolution.MINUTE, Resolution.HOUR, HOUR),
        (Resolution.HOUR, Resolution.DAY, DAY),
    ):
        parameters: dict[str, Any] = {
            "short": short.value,
            "long": long.value,
            "since": _floor(since, span),
            "until": _floor(until - timedelta(microseconds=1), span) + span,
        }
        with connection.cursor() as sql:
            for statement in (_LONGER, _LONGER_CONSUMERS, _LONGER_NODES):
                sql.execute(statement, parameters)


def forget() -> int:
    """Delete what is too old, never what a pass may still add up; returns how many rows."""
    cursors = list(MetricCursor.objects.values_list("reached_at", flat=True))
    if len(cursors) < len(PASSES):
        return 0
    now, behind = utc_now(), min(cursors)
    limits = (
        (Resolution.MINUTE, timedelta(hours=settings.METRIC_MINUTE_HOURS), HOUR),
        (Resolution.HOUR, timedelta(days=settings.METRIC_HOUR_DAYS), DAY),
        (Resolution.DAY, timedelta(days=settings.METRIC_DAY_DAYS), DAY),
    )
    count = 0
    for resolution, kept, span in limits:
        before = min(now - kept, _floor(behind, span))
        for table in _TABLES:
            count += _forget(table, resolution.value, before)
    GatewayCounter.objects.filter(seen_at__lt=now - COUNTERS_KEPT).delete()
    return count


def _forget(table: str, resolution: str, before: datetime) -> int:
    with connection.cursor() as sql:
        sql.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE resolution = %s"  # noqa: S608
            " AND starts_at < %s LIMIT %s)",
            [resolution, before, FORGET_MAX],
        )
        return sql.rowcount


def _floor(moment: datetime, span: timedelta) -> datetime:
    origin = datetime(1970, 1, 1, tzinfo=UTC)
    return origin + (moment - origin) // span * span


# --- Nodes ------------------------------------------------------------------------


def sample_nodes() -> int:
    """Note how full each node is that reports; returns how many do."""
    now = utc_now()
    nodes = Node.objects.filter(revoked_at=None, last_seen_at__gt=now - QUIET_AFTER)
    rows = [row for node in nodes if (row := _sample(node, _floor(now, MINUTE))) is not None]
    NodeMetric.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["node", "resolution", "starts_at"],
        update_fields=[*_NODE_SUMS, *_NODE_TOTALS],
    )
    return len(rows)


def _sample(node: Node, at: datetime) -> NodeMetric | None:
    """What a node says of itself is taken only where it is a number."""
    total = _number(node.info.get("memory_total_bytes"))
    available = _number(node.info.get("memory_available_bytes"))
    if not total or available is None:
        return None
    row = NodeMetric(
        node=node,
        resolution=Resolution.MINUTE,
        starts_at=at,
        samples=1,
        memory_used_bytes_sum=max(0, total - available),
        memory_total_bytes=total,
    )
    gpus = node.info.get("gpus")
    found = [one for one in gpus if isinstance(one, dict)] if isinstance(gpus, list) else []
    if found:
        row.gpu_samples = 1
        busy = [_number(one.get("busy_bps")) or 0 for one in found]
        row.gpu_busy_bps_sum = min(10_000, sum(busy) // len(busy))
        used = [_number(one.get("memory_used_bytes")) or 0 for one in found]
        row.gpu_memory_used_bytes_sum = sum(used)
        totals = [_number(one.get("memory_total_bytes")) or 0 for one in found]
        row.gpu_memory_total_bytes = sum(totals)
    return row


def _number(value: Any) -> int | None:
    """A whole number that Postgres can add up for a year."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= 1 << 50 else None


# --- Gateways ---------------------------------------------------------------------


@dataclass(slots=True)
class _Counts:
    """What one version's counters say, or the difference of two such."""

    refused: dict[str, int] = field(default_factory=dict)
    queue: dict[int, int] = field(default_factory=dict)
    first_token: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> _Counts:
        return cls(
            dict(value["refused"]),
            {int(bucket): count for bucket, count in value["queue"].items()},
            {int(bucket): count for bucket, count in value["first_token"].items()},
        )

    def to_json(self) -> dict[str, Any]:
        return {"refused": self.refused, "queue": self.queue, "first_token": self.first_token}

    def minus(self, before: _Counts) -> _Counts:
        return _Counts(
            _subtract(self.refused, before.refused),
            _subtract(self.queue, before.queue),
            _subtract(self.first_token, before.first_token),
        )

    def __bool__(self) -> bool:
        return bool(self.refused or self.queue or self.first_token)


def _subtract(now: dict[Any, int], before: dict[Any, int]) -> dict[Any, int]:
    differences = {key: count - before.get(key, 0) for key, count in now.items()}
    return {key: count for key, count in differences.items() if count > 0}


def read_gateways() -> int:
    """Add what the gateways counted since the last time; returns how many of them answered."""
    count, ends_s = 0, time.monotonic() + PAGES_LIMIT_S
    for url in list_gateways():
        if time.monotonic() > ends_s:
            logger.warning("some gateways are not read: others did not answer in time")
            break
        try:
            text = _fetch(url)
        except (OSError, ValueError) as error:
            logger.info("the counters of a gateway cannot be read: %s", type(error).__name__)
            continue
        record_counters(url=url, text=text)
        count += 1
    return count


def list_gateways() -> list[str]:
    """Where each gateway's counters are; those behind a name as it is resolved now."""
    found: list[str] = []
    for url in settings.GATEWAY_METRICS_URLS:
        if not url.startswith(RESOLVED):
            found.append(url)
            continue
        try:
            found += _resolve(url.removeprefix("dns+"))
        except OSError as error:
            logger.info("the gateways of a name are not found: %s", type(error).__name__)
    return found


def _resolve(url: str) -> list[str]:
    """The same address with each number that its name has, in order, up to `GATEWAYS_MAX`."""
    parts = urlsplit(url)
    port = parts.port or 80
    rows = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    hosts = sorted({str(row[4][0]) for row in rows})
    if len(hosts) > GATEWAYS_MAX:
        logger.warning("%d gateways of %d are read", GATEWAYS_MAX, len(hosts))
    shown = (f"[{host}]" if ":" in host else host for host in hosts[:GATEWAYS_MAX])
    return [f"{parts.scheme}://{host}:{port}{parts.path}" for host in shown]


def _fetch(url: str) -> str:
    headers = {}
    if settings.GATEWAY_METRICS_TOKEN:
        headers["Authorization"] = f"Bearer {settings.GATEWAY_METRICS_TOKEN}"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - set by the operator
    with urllib.request.urlopen(request, timeout=PAGE_LIMIT_S) as answer:  # noqa: S310
        return str(answer.read(PAGE_BYTES_MAX).decode(errors="replace"))


@transaction.atomic
def record_counters(*, url: str, text: str) -> None:
    """Take one page of a gateway's counters.

    Args:
        url: Where it was read; behind it may be several processes, of which one answered.
        text: The page.
    """
    started_at_s, counts = _read_page(text)
    now = utc_now()
    process = f"{url[:200]} {started_at_s}"
    row = GatewayCounter.objects.select_for_update().filter(pk=process).first()
    if row is not None:
        before = {name: _Counts.from_json(one) for name, one in row.counters.items()}
    elif now.timestamp() - started_at_s < NEW_PROCESS.total_seconds():
        before = {}
    else:
        # What it has counted in all its time is not what happened now.
        before = counts
    changed = {
        name: found
        for name, one in counts.items()
        if (found := one.minus(before.get(name, _Counts())))
    }
    if changed:
        _add(changed, _floor(now, MINUTE))
    GatewayCounter.objects.update_or_create(
        process=process,
        defaults={
            "counters": {name: one.to_json() for name, one in counts.items()},
            "seen_at": now,
        },
    )


def _read_page(text: str) -> tuple[float, dict[str, _Counts]]:
    """When the process was started, and the counts by `owner/name:number`."""
    started_at_s = 0.0
    counts: dict[str, _Counts] = {}
    below: dict[tuple[str, str], list[int]] = {}
    for sample in parse_samples(text):
        if sample.name == "process_start_time_seconds":
            started_at_s = sample.value
        version = sample.labels.get("version", "")
        if not version.isdecimal() or "/" not in sample.labels.get("model", ""):
            continue
        name = f"{sample.labels['model']}:{version}"
        if sample.name == "strongroom_gateway_requests_total":
            kind = _classify(sample.labels)
            if kind:
                refused = counts.setdefault(name, _Counts()).refused
                refused[kind] = refused.get(kind, 0) + int(sample.value)
        for histogram_name in ("queue", "first_token"):
            if sample.name == f"strongroom_gateway_{histogram_name}_seconds_bucket":
                below.setdefault((name, histogram_name), []).append(int(sample.value))
    for (name, histogram_name), sums in below.items():
        steps = enumerate(zip(sums, [0, *sums], strict=False))
        found = {index: now - before for index, (now, before) in steps if now > before}
        setattr(counts.setdefault(name, _Counts()), histogram_name, found)
    return started_at_s, counts


def _classify(labels: dict[str, str]) -> str:
    """Which kind of refusal it is; empty for none: a failed prediction is recorded as one."""
    code = labels.get("code", "")
    for kind, codes in REFUSALS.items():
        if code in codes:
            return kind
    is_recorded = code in ("canceled", "client_gone", "deadline", *FAILURES["timeout"])
    return "input" if labels.get("outcome") == "client_error" and not is_recorded else ""


def _add(changed: dict[str, _Counts], at: datetime) -> None:
    for (model_id, version_id), counts in sorted(_find_versions(changed)):
        row = Metric.objects.select_for_update().get_or_create(
            model_id=model_id,
            version_id=version_id,
            resolution=Resolution.MINUTE,
            starts_at=at,
        )[0]
        for kind, count in counts.refused.items():
            name = f"refused_{kind}"
            setattr(row, name, getattr(row, name) + count)
        for name in ("queue", "first_token"):
            old = dict(
                zip(getattr(row, f"{name}_buckets"), getattr(row, f"{name}_counts"), strict=True)
            )
            merged = histogram.add([old, getattr(counts, name)])
            setattr(row, f"{name}_buckets", sorted(merged))
            setattr(row, f"{name}_counts", [merged[bucket] for bucket in sorted(merged)])
        row.save()


def _find_versions(
    changed: dict[str, _Counts],
) -> Iterator[tuple[tuple[UUID, UUID], _Counts]]:
    """By the ids of those that there are; a gateway may name one that was renamed."""
    owners = {name.partition("/")[0] for name in changed}
    versions = ModelVersion.objects.filter(model__account__slug__in=owners)
    for version in versions.values_list(
        "model_id", "pk", "model__account__slug", "model__name", "number"
    ):
        counts = changed.get(f"{version[2]}/{version[3]}:{version[4]}")
        if counts is not None:
            yield (version[0], version[1]), counts
