"""Read how the queue of jobs stands: by version and class, by node, and how jobs ended lately.

Everything here is counted by Postgres in a fixed number of statements, however much waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Count, F, Q, Sum

from inference.models import Job, JobFlow, JobPace, Node, Replica
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion

LEASED = (Job.State.LEASED, Job.State.RUNNING)
# A page shows no more; more versions that wait at once are looked at in a monitoring system.
DEPTHS_SHOWN = 200
WAITERS_SHOWN = 20
# More slots than this run at once in no fleet that one page can show.
LEASES_SHOWN = 500
# How far back the chart of endings looks, and in which steps.
ENDINGS_STEP = timedelta(minutes=15)
ENDINGS_POINTS = 24
# The newest endings of all models that are looked through for a chart; should there have been
# more, its earlier points are left out.
ENDINGS_READ_MAX = 200_000
ENDINGS = ("succeeded", "failed", "canceled", "dead")


@dataclass(frozen=True, slots=True)
class ClassDepth:
    """What there is of one class of priority."""

    priority: Job.Priority
    waiting: int
    running: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of a version waits and runs, and how fast it goes.

    Attributes:
        version: Which.
        classes: Each class, the most urgent first.
        mean_s: How long a run takes; None where none was measured.
        place_count: Copies that take jobs now.
    """

    version: ModelVersion
    classes: Sequence[ClassDepth]
    mean_s: float | None
    place_count: int

    @property
    def waiting(self) -> int:
        """Of all classes."""
        return sum(one.waiting for one in self.classes)

    @property
    def running(self) -> int:
        """Of all classes, those that a node has taken."""
        return sum(one.running for one in self.classes)

    @property
    def oldest_at(self) -> datetime | None:
        """Since when the first one waits."""
        return min((one.oldest_at for one in self.classes if one.oldest_at), default=None)

    @property
    def wait_s(self) -> int | None:
        """How long one that comes now will probably wait; None where nobody can say."""
        if self.mean_s is None:
            return None
        return predict_wait_s(self.waiting, self.mean_s, self.place_count)


@dataclass(frozen=True, slots=True)
class NodeLeases:
    """The jobs that a node has; the node itself may have gone."""

    node: Node | None
    node_id: UUID
    jobs: Sequence[Job]

    @property
    def oldest_at(self) -> datetime | None:
        """When it took the first of them."""
        return min((one.leased_at for one in self.jobs if one.leased_at), default=None)

    @property
    def late_count(self) -> int:
        """Leases that have run out, and that nobody has taken back yet."""
        now = utc_now()
        return sum(one.lease_until is not None and one.lease_until < now for one in self.jobs)


@dataclass(frozen=True, slots=True)
class Endings:
    """How many jobs ended in each span of time, by how."""

    times: Sequence[int]
    counts: Mapping[str, Sequence[int | None]]
    is_cut: bool

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.count(name) for name in ENDINGS)

    def count(self, name: str) -> int:
        """Of one kind."""
        return sum(one or 0 for one in self.counts[name])


@dataclass(frozen=True, slots=True)
class Waiter:
    """An account with jobs of a model, waiting or running."""

    account_id: UUID
    count: int


def predict_wait_s(ahead_count: int, mean_s: float, place_count: int) -> int:
    """How long `ahead_count` runs take on the places that there are, as the gateway reckons."""
    return round(ahead_count * mean_s / max(1, place_count))


_DEPTHS = """
    SELECT version_id, priority, sum(waiting)::bigint, sum(running)::bigint, min(oldest_at) FROM (
        SELECT j.version_id, j.priority, count(*) AS waiting, 0 AS running,
            min(j.created_at) AS oldest_at
        FROM inference_job j
        WHERE j.state = 'queued' AND (%(all)s OR j.version_id = ANY(%(versions)s)) GROUP BY 1, 2
        UNION ALL
        SELECT j.version_id, j.priority, 0, count(*), NULL FROM inference_job j
        WHERE j.state IN ('leased', 'running') AND (%(all)s OR j.version_id = ANY(%(versions)s))
        GROUP BY 1, 2
    ) found GROUP BY 1, 2 ORDER BY 1, 2
"""


def list_depths(versions: Iterable[UUID] | None = None) -> list[Depth]:
    """Versions of which something waits or runs, the longest waiting first.

    Args:
        versions: Only these, and then also those of which nothing does.
    """
    wanted = None if versions is None else list(versions)
    classes: dict[UUID, dict[int, ClassDepth]] = {one: {} for one in wanted or ()}
    parameters = {"all": wanted is None, "versions": wanted or []}
    for version_id, priority, waiting, running, oldest_at in _query(_DEPTHS, parameters):
        one = ClassDepth(Job.Priority(priority), waiting, running, oldest_at)
        classes.setdefault(version_id, {})[priority] = one
    means, places = read_means(classes), count_places(classes)
    rows = ModelVersion.objects.filter(pk__in=classes).select_related("model__account")
    depths = [
        Depth(
            row,
            [classes[row.pk].get(one, ClassDepth(one, 0, 0, None)) for one in Job.Priority],
            means.get(row.pk),
            places.get(row.pk, 0),
        )
        for row in rows.defer("interface", "model__card")
    ]
    late = utc_now()
    depths.sort(key=lambda one: (one.oldest_at or late, -one.version.number))
    return depths[:DEPTHS_SHOWN]


def list_waiters(versions: Iterable[UUID]) -> list[Waiter]:
    """Accounts that have jobs of these versions, waiting or running, those with the most first."""
    flows = JobFlow.objects.filter(version__in=list(versions))
    rows = (
        flows.values("account_id")
        .annotate(count=Sum(F("offered_count") + F("parked_count")))
        .filter(count__gt=0)
        .order_by("-count", "account_id")
    )
    return [Waiter(**row) for row in rows[:WAITERS_SHOWN]]


def read_means(versions: Iterable[UUID]) -> dict[UUID, float]:
    """How many seconds a run of each version takes, where it is known."""
    rows = JobPace.objects.filter(pk__in=list(versions)).values_list("pk", "mean_us")
    return {version_id: mean_us / 1e6 for version_id, mean_us in rows}


def count_places(versions: Iterable[UUID]) -> dict[UUID, int]:
    """How many copies of each version take jobs now."""
    ready = Replica.objects.filter(
        version__in=list(versions),
        state=Replica.State.READY,
        wanted=True,
        node__revoked_at=None,
        node__triton_ready=True,
    )
    return dict(
        ready.order_by().values("version").annotate(n=Count("pk")).values_list("version", "n")
    )


def list_leases() -> list[NodeLeases]:
    """Nodes that have jobs, and those that are to take no more, the oldest lease first."""
    jobs = list(
        Job.objects.filter(state__in=LEASED)
        .select_related("version__model__account")
        .defer("version__interface", "version__model__card")
        .order_by("leased_at", "pk")[:LEASES_SHOWN]
    )
    held: dict[UUID, list[Job]] = {}
    for job in jobs:
        assert job.lease_node_id is not None
        held.setdefault(job.lease_node_id, []).append(job)
    draining = Q(drain_requested_at__isnull=False, revoked_at=None)
    nodes = {one.pk: one for one in Node.objects.filter(draining | Q(pk__in=held)).order_by("name")}
    found = [NodeLeases(nodes.get(node_id), node_id, mine) for node_id, mine in held.items()]
    return found + [
        NodeLeases(node, node_id, []) for node_id, node in nodes.items() if node_id not in held
    ]


# What has just ended is still in the queue; what ended a while ago was moved out of it.
_ENDINGS = """
    SELECT date_bin(%(step)s, e.finished_at, %(since)s) AS at, e.state,
        count(*) FILTER (WHERE %(all)s OR e.version_id = ANY(%(versions)s)), count(*)
    FROM (
        (SELECT f.finished_at, f.state, f.version_id FROM inference_finishedjob f
            WHERE f.finished_at >= %(since)s ORDER BY f.finished_at DESC LIMIT %(limit)s)
        UNION ALL
        (SELECT j.finished_at, j.state, j.version_id FROM inference_job j
            WHERE j.finished_at >= %(since)s ORDER BY j.finished_at DESC LIMIT %(limit)s)
    ) e GROUP BY 1, 2 ORDER BY 1
"""


def count_endings(versions: Iterable[UUID] | None = None) -> Endings:
    """How jobs ended in the last hours: of these versions, or of all."""
    ends_at = _floor(utc_now()) + ENDINGS_STEP
    since = ends_at - ENDINGS_STEP * ENDINGS_POINTS
    wanted = None if versions is None else list(versions)
    parameters = {
        "step": ENDINGS_STEP,
        "since": since,
        "all": wanted is None,
        "versions": wanted or [],
        "limit": ENDINGS_READ_MAX,
    }
    rows = _query(_ENDINGS, parameters)
    is_cut = sum(row[3] for row in rows) >= ENDINGS_READ_MAX
    # Of the first span only a part was read.
    first = (rows[0][0] - since) // ENDINGS_STEP + 1 if is_cut else 0
    counts: dict[str, list[int | None]] = {
        name: [None if index < first else 0 for index in range(ENDINGS_POINTS)] for name in ENDINGS
    }
    for at, state, count, _ in rows:
        index = (at - since) // ENDINGS_STEP
        if first <= index < ENDINGS_POINTS:
            counts[state][index] = count
    step_s = int(ENDINGS_STEP.total_seconds())
    begin = int(since.timestamp())
    times = [begin + index * step_s for index in range(ENDINGS_POINTS)]
    return Endings(times, counts, is_cut)


def _floor(moment: datetime) -> datetime:
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    return moment - (moment - begin) % ENDINGS_STEP


def _query(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()
