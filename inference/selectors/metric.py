"""Read what models did over time: from roll-ups alone, in a bounded number of rows.

Whatever the traffic was, a window has at most `POINTS_MAX` points; what they are made of is
added up by Postgres.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from inference.core import histogram
from inference.models import MetricCursor, Replica
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.models import AIModel, AuditEvent, ModelVersion

POINTS_MAX = 96
# Lines that can be told apart.
COMPARED_MAX = 4
CONSUMERS_SHOWN = 20
EVENTS_SHOWN = 30
NODES_SHOWN = 6
# Versions of a model that one window may speak of.
VERSIONS_MAX = 200
COLD_STARTS_MAX = 5_000
# Behind this the roll-up is late, and the page says so.
LATE_AFTER = timedelta(minutes=3)
# Fewer successes make percentiles that mean little.
LITTLE = 20


@dataclass(frozen=True, slots=True)
class Range:
    """How far back a page looks, and in which steps."""

    name: str
    label: str
    resolution: str
    step_s: int
    points: int

    @property
    def length(self) -> timedelta:
        """From its beginning to its end."""
        return timedelta(seconds=self.step_s * self.points)


RANGES = {
    one.name: one
    for one in (
        Range("1h", "1 hour", "minute", 60, 60),
        Range("6h", "6 hours", "minute", 300, 72),
        Range("24h", "24 hours", "minute", 900, 96),
        Range("7d", "7 days", "hour", 7_200, 84),
        Range("30d", "30 days", "hour", 28_800, 90),
        Range("90d", "90 days", "day", 86_400, 90),
    )
}
DEFAULT_RANGE = "24h"

FAILED = ("failed_input", "failed_model", "failed_timeout", "failed_capacity", "failed_platform")
REFUSED = ("refused_input", "refused_limit", "refused_credit", "refused_capacity")
SUMS = (
    *("predictions", "succeeded", "canceled", *FAILED, *REFUSED),
    *("rows", "gross_nanos", "creator_nanos"),
)
HISTOGRAMS = ("latency", "queue", "first_token")
_EDGES = {"queue": histogram.QUEUE_EDGES_S, "first_token": histogram.FIRST_TOKEN_EDGES_S}


@dataclass(slots=True)
class Point:
    """What happened in a span of time."""

    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    histograms: dict[str, dict[int, int]] = field(
        default_factory=lambda: {name: {} for name in HISTOGRAMS}
    )

    def __getattr__(self, name: str) -> int:
        try:
            return self.sums[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def failed(self) -> int:
        """Predictions that failed, whatever the reason; canceled ones have not."""
        return sum(self.sums[name] for name in FAILED)

    @property
    def good(self) -> int:
        """What counts for an SLO as served."""
        return self.sums["succeeded"]

    @property
    def bad(self) -> int:
        """What counts against an SLO: neither bad input, nor what the consumer gave up."""
        return (
            self.sums["failed_model"]
            + self.sums["failed_timeout"]
            + self.sums["failed_capacity"]
            + self.sums["failed_platform"]
            + self.sums["refused_capacity"]
        )

    @property
    def error_share(self) -> float | None:
        """Failed ones of those that came to an end by themselves."""
        ended = self.sums["succeeded"] + self.failed
        return self.failed / ended if ended else None

    @property
    def nanos_per_prediction(self) -> int | None:
        """What a success cost its consumer."""
        count = self.sums["succeeded"]
        return self.sums["gross_nanos"] // count if count else None

    def quantile_ms(self, name: str, share: float) -> float | None:
        """A percentile of a histogram; where gateways counted, the edge that it stays below."""
        counts = self.histograms[name]
        edges = _EDGES.get(name)
        if edges is None:
            return histogram.quantile_ms(counts, share)
        return histogram.edge_quantile_ms(counts, share, edges)

    @classmethod
    def total(cls, points: Iterable[Point]) -> Point:
        """All of them together."""
        found = cls()
        for point in points:
            for name, count in point.sums.items():
                found.sums[name] += count
            for name in HISTOGRAMS:
                merged = histogram.add([found.histograms[name], point.histograms[name]])
                found.histograms[name] = merged
        return found


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who asks, without a name."""

    pseudonym: str
    is_own: bool
    month: datetime
    predictions: int
    failed: int
    creator_nanos: int


@dataclass(frozen=True, slots=True)
class NodeLine:
    """How full one node was, at each point."""

    name: str
    memory_share: list[float | None]
    gpu_share: list[float | None]
    gpu_memory_share: list[float | None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that may explain a change."""

    at: datetime
    label: str


@dataclass(slots=True)
class Window:
    """All that a page or an export shows of a model."""

    range: Range
    starts_at: datetime
    ends_at: datetime
    # By the number of the version.
    by_version: dict[int, list[Point]]
    consumer_counts: list[int]
    consumers: list[Consumer]
    consumer_total: int
    cold_starts: list[int]
    nodes: list[NodeLine]
    events: list[Event]
    rolled_up_at: datetime | None
    is_late: bool
    points: list[Point] = field(init=False)
    total: Point = field(init=False)

    def __post_init__(self) -> None:
        columns = zip(*self.by_version.values(), strict=True)
        self.points = [Point.total(column) for column in columns] or [
            Point() for _ in range(self.range.points)
        ]
        self.total = Point.total(self.points)

    @property
    def times(self) -> list[int]:
        """Where each point begins, in seconds since 1970."""
        begin = int(self.starts_at.timestamp())
        return [begin + index * self.range.step_s for index in range(self.range.points)]

    @property
    def is_empty(self) -> bool:
        """Whether nobody asked for anything."""
        sums = self.total.sums
        return not sums["predictions"] and not any(sums[name] for name in REFUSED)

    @property
    def is_little(self) -> bool:
        """Whether there is too little for percentiles."""
        return 0 < self.total.sums["succeeded"] < LITTLE


def find_range(name: str) -> Range:
    """The range of this name.

    Raises:
        InvalidInputError: There is none.
    """
    found = RANGES.get(name or DEFAULT_RANGE)
    if found is None:
        detail = f"Must be one of {', '.join(RANGES)}."
        raise InvalidInputError(errors=[{"pointer": "/range", "detail": detail}])
    return found


def read_numbers(texts: Sequence[str]) -> list[int]:
    """The numbers of versions to compare.

    Raises:
        InvalidInputError: One is no number of a version, or there are too many.
    """
    pointer = "/versions"
    if len(texts) > COMPARED_MAX:
        detail = f"At most {COMPARED_MAX} versions can be compared."
        raise InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])
    if not all(text.isascii() and text.isdecimal() and len(text) <= 9 for text in texts):
        raise InvalidInputError(errors=[{"pointer": pointer, "detail": "Must be a number."}])
    return [int(text) for text in texts]


def read_window(model: AIModel, found: Range, *, numbers: Sequence[int] = ()) -> Window:
    """What a model did.

    Args:
        model: Whose.
        found: How far back.
        numbers: Only these versions; all for none.
    """
    now = utc_now()
    step = timedelta(seconds=found.step_s)
    # The last point is the one that still runs.
    ends_at = _floor(now, step) + step
    starts_at = ends_at - found.length
    span = _Span(model.pk, found, starts_at, ends_at)
    by_version = _read_versions(model, span, numbers)
    consumers, consumer_total = _list_consumers(model, span)
    cursor = MetricCursor.objects.filter(name="fresh").first()
    return Window(
        range=found,
        starts_at=starts_at,
        ends_at=ends_at,
        by_version=by_version,
        consumer_counts=_count_consumers(span),
        consumers=consumers,
        consumer_total=consumer_total,
        cold_starts=_count_cold_starts(model, span),
        nodes=_list_nodes(model, span),
        events=_list_events(model, span),
        rolled_up_at=cursor.updated_at if cursor else None,
        is_late=cursor is None
        or now - cursor.updated_at > LATE_AFTER
        or now - cursor.reached_at > LATE_AFTER,
    )


def read_point(model_id: UUID, *, since: datetime, until: datetime) -> Point:
    """All that a model did in minutes that are still kept, for rules that watch it."""
    return _read_total(model_id, "minute", since, until)


def list_numbers(model: AIModel) -> list[int]:
    """The versions that ran, the newest first."""
    ran = ModelVersion.objects.filter(model=model, state__in=("approved", "withdrawn"))
    return list(ran.order_by("-number").values_list("number", flat=True)[:VERSIONS_MAX])


# --- Pseudonyms -------------------------------------------------------------------


def make_pseudonym(creator_id: UUID, consumer_id: UUID, month: datetime) -> str:
    """How a creator knows a consumer in one month.

    Keyed: who does not have the platform's secret can neither undo it, nor try all accounts;
    and two creators, or two months, do not find that they mean the same one.
    """
    key = hashlib.sha256(f"consumer-pseudonym {settings.SECRET_KEY}".encode()).digest()
    message = f"{creator_id} {month:%Y-%m} {consumer_id}".encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return "c-" + base64.b32encode(digest[:10]).decode().lower()[:12]


# --- What stands in the tables ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    model_id: UUID
    range: Range
    starts_at: datetime
    ends_at: datetime

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "resolution": self.range.resolution,
            "since": self.starts_at,
            "until": self.ends_at,
            "step": timedelta(seconds=self.range.step_s),
        }

    def find_index(self, moment: datetime) -> int:
        return (moment - self.starts_at) // timedelta(seconds=self.range.step_s)


_BIN = "date_bin(%(step)s, starts_at, %(since)s)"
_WHERE = (
    "model_id = %(model_id)s AND resolution = %(resolution)s"
    " AND starts_at >= %(since)s AND starts_at < %(until)s"
)
_READ_SUMS = f"""
    SELECT version_id, {_BIN} AS at, {", ".join(f"sum({name})::bigint" for name in SUMS)}
    FROM inference_metric WHERE {_WHERE} GROUP BY 1, 2
"""  # noqa: S608 - put together from constants
_BUCKETS = " UNION ALL ".join(
    f"""
    SELECT version_id, {_BIN} AS at, '{name}' AS name, b.bucket, sum(b.n)::bigint AS n
    FROM inference_metric, unnest({name}_buckets, {name}_counts) AS b(bucket, n)
    WHERE {_WHERE} GROUP BY 1, 2, 4
    """  # noqa: S608 - put together from constants
    for name in HISTOGRAMS
)
_READ_HISTOGRAMS = f"""
    SELECT version_id, at, name, array_agg(bucket), array_agg(n) FROM ({_BUCKETS}) found
    GROUP BY 1, 2, 3
"""  # noqa: S608 - put together from constants
_READ_CONSUMER_COUNTS = f"""
    SELECT {_BIN} AS at, count(DISTINCT account_id) FROM inference_consumermetric
    WHERE {_WHERE} GROUP BY 1
"""  # noqa: S608 - put together from constants
_READ_CONSUMERS = f"""
    SELECT account_id, date_trunc('month', starts_at AT TIME ZONE 'UTC') AS month,
        sum(predictions)::bigint AS predictions, sum(failed)::bigint, sum(creator_nanos)::bigint,
        count(*) OVER () AS total
    FROM inference_consumermetric WHERE {_WHERE} GROUP BY 1, 2
    ORDER BY predictions DESC, account_id, month DESC LIMIT %(limit)s
"""  # noqa: S608 - put together from constants
_READ_NODES = """
    SELECT n.name, date_bin(%(step)s, m.starts_at, %(since)s) AS at,
        sum(m.memory_used_bytes_sum)::float / NULLIF(sum(m.samples * m.memory_total_bytes), 0),
        sum(m.gpu_busy_bps_sum)::float / NULLIF(sum(m.gpu_samples), 0) / 10000,
        sum(m.gpu_memory_used_bytes_sum)::float
            / NULLIF(sum(m.gpu_samples * m.gpu_memory_total_bytes), 0)
    FROM inference_nodemetric m JOIN inference_node n ON n.id = m.node_id
    WHERE m.node_id = ANY(%(nodes)s) AND m.resolution = %(resolution)s
        AND m.starts_at >= %(since)s AND m.starts_at < %(until)s
    GROUP BY 1, 2 ORDER BY 1, 2
"""


def _query(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as sql:
        sql.execute(statement, parameters)
        return sql.fetchall()


def _read_versions(model: AIModel, span: _Span, numbers: Sequence[int]) -> dict[int, list[Point]]:
    by_id: dict[UUID, list[Point]] = {}

    def find(version_id: UUID, at: datetime) -> Point:
        if version_id not in by_id:
            by_id[version_id] = [Point() for _ in range(span.range.points)]
        return by_id[version_id][span.find_index(at)]

    for version_id, at, *sums in _query(_READ_SUMS, span.parameters):
        find(version_id, at).sums = dict(zip(SUMS, sums, strict=True))
    for version_id, at, name, buckets, counts in _query(_READ_HISTOGRAMS, span.parameters):
        find(version_id, at).histograms[name] = dict(zip(buckets, counts, strict=True))
    versions = ModelVersion.objects.filter(model=model).filter(
        Q(pk__in=by_id) | Q(number__in=numbers)
    )
    return {
        number: by_id.get(version_id) or [Point() for _ in range(span.range.points)]
        for version_id, number in versions.order_by("number").values_list("pk", "number")
        if not numbers or number in numbers
    }


def _count_consumers(span: _Span) -> list[int]:
    counts = [0] * span.range.points
    for at, count in _query(_READ_CONSUMER_COUNTS, span.parameters):
        counts[span.find_index(at)] = count
    return counts


def _list_consumers(model: AIModel, span: _Span) -> tuple[list[Consumer], int]:
    rows = _query(_READ_CONSUMERS, span.parameters | {"limit": CONSUMERS_SHOWN})
    consumers = [
        Consumer(
            pseudonym=make_pseudonym(model.account_id, row[0], row[1]),
            is_own=row[0] == model.account_id,
            month=row[1],
            predictions=row[2],
            failed=row[3],
            creator_nanos=row[4],
        )
        for row in rows
    ]
    return consumers, rows[0][5] if rows else 0


def _count_cold_starts(model: AIModel, span: _Span) -> list[int]:
    """Copies that were asked of a node, each of which had to be fetched, decrypted and loaded."""
    counts = [0] * span.range.points
    replicas = Replica.objects.filter(
        version__model=model,
        purpose=Replica.Purpose.SERVE,
        created_at__gte=span.starts_at,
        created_at__lt=span.ends_at,
    )
    newest = replicas.order_by("-created_at").values_list("created_at", flat=True)
    for at in newest[:COLD_STARTS_MAX]:
        counts[span.find_index(at)] += 1
    return counts


def _list_nodes(model: AIModel, span: _Span) -> list[NodeLine]:
    replicas = Replica.objects.filter(
        version__model=model, purpose=Replica.Purpose.SERVE, wanted=True
    )
    nodes = list(replicas.order_by("node_id").values_list("node_id", flat=True).distinct())
    if not nodes:
        return []
    lines: dict[str, NodeLine] = {}
    parameters = span.parameters | {"nodes": nodes[:NODES_SHOWN]}
    for name, at, *shares in _query(_READ_NODES, parameters):
        empty: list[list[float | None]] = [[None] * span.range.points for _ in range(3)]
        line = lines.setdefault(name, NodeLine(name, *empty))
        values = (line.memory_share, line.gpu_share, line.gpu_memory_share)
        for column, share in zip(values, shares, strict=True):
            column[span.find_index(at)] = share
    return list(lines.values())


def _list_events(model: AIModel, span: _Span) -> list[Event]:
    """Releases and prices, as the audit log of the account tells them."""
    versions = [
        str(pk)
        for pk in ModelVersion.objects.filter(model=model)
        .order_by("-number")
        .values_list("pk", flat=True)[:VERSIONS_MAX]
    ]
    rows = AuditEvent.objects.filter(
        Q(action__in=("channel.move", "version.withdraw"), object_id__in=versions)
        | Q(action="price.set", payload__model=str(model)),
        account_id=model.account_id,
        at__gte=span.starts_at,
        at__lt=span.ends_at,
    )
    newest = list(rows.order_by("-seq")[:EVENTS_SHOWN])
    return [Event(row.at, label) for row in reversed(newest) if (label := _name_event(row))]


def _name_event(row: AuditEvent) -> str:
    payload = row.payload
    if row.action == "channel.move":
        channel = str(payload.get("channel", "")).rpartition("@")[2]
        return f"Version {payload.get('to')} in {channel}"
    if row.action == "version.withdraw":
        return f"Version {str(payload.get('version', '')).rpartition(':')[2]} withdrawn"
    return "Price set"


def _read_total(model_id: UUID, resolution: str, since: datetime, until: datetime) -> Point:
    whole = Range("", "", resolution, 0, 1)
    parameters = _Span(model_id, whole, since, until).parameters
    parameters["step"] = timedelta(days=36_500)
    points: dict[UUID, Point] = {}
    for version_id, _, *sums in _query(_READ_SUMS, parameters):
        points.setdefault(version_id, Point()).sums = dict(zip(SUMS, sums, strict=True))
    for version_id, _, name, buckets, counts in _query(_READ_HISTOGRAMS, parameters):
        found = points.setdefault(version_id, Point())
        found.histograms[name] = dict(zip(buckets, counts, strict=True))
    return Point.total(points.values())


def _floor(moment: datetime, span: timedelta) -> datetime:
    origin = datetime(1970, 1, 1, tzinfo=UTC)
    return origin + (moment - origin) // span * span


# --- Export -----------------------------------------------------------------------

EXPORT_COLUMNS = (
    *("time", "version", *SUMS, "p50_ms", "p95_ms", "p99_ms"),
    *("queue_p95_ms", "first_token_p95_ms"),
)


def list_export(window: Window) -> Iterator[dict[str, Any]]:
    """A line for each point and version in which something happened."""
    for index, time_s in enumerate(window.times):
        for number, points in window.by_version.items():
            point = points[index]
            if not any(point.sums.values()):
                continue
            yield {
                "time": datetime.fromtimestamp(time_s, UTC).isoformat(),
                "version": number,
                **point.sums,
                "p50_ms": _round(point.quantile_ms("latency", 0.5)),
                "p95_ms": _round(point.quantile_ms("latency", 0.95)),
                "p99_ms": _round(point.quantile_ms("latency", 0.99)),
                "queue_p95_ms": _round(point.quantile_ms("queue", 0.95)),
                "first_token_p95_ms": _round(point.quantile_ms("first_token", 0.95)),
            }


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
