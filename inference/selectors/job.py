"""Read an account's jobs: what waits and runs now, where each stands, and how one was run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet

from inference.core.job_reason import describe_reason
from inference.models import Job, JobAttempt, Replica, WebhookDelivery
from inference.selectors import queue
from marketplace.core import ids
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts

State = Job.State

PAGE_SIZE = 50
# An account has at most 64 of a version on offer, of which a part runs.
RUNNING_SHOWN = 100
# Many die of one reason.
DEAD_SHOWN = 20
# Who stands further back is told so, without a number.
POSITION_MAX = 10_000
ATTEMPTS_SHOWN = 50
DELIVERIES_SHOWN = 20
# Messages are spread within seconds after what they tell of; clocks may differ.
_SLACK = timedelta(hours=1)
OPEN = (State.QUEUED, State.LEASED, State.RUNNING)
# Nodes tell of a copy's way in these steps, in their order.
_LOADING = (
    *(Replica.State.ASSIGNED, Replica.State.FETCHING, Replica.State.STARTING),
    *(Replica.State.DECRYPTING, Replica.State.VALIDATING, Replica.State.LOADING),
    Replica.State.WARMING,
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A part of what an account has in the queue; `state` is waiting, running, or both."""

    model: str = ""
    state: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job for people.

    Attributes:
        row: The job.
        position: Its place among those that wait, 1 is next; None if it runs, or is far behind.
        eta_s: How long until it will probably begin; None where nobody can say.
        is_loaded: Whether a node has its model ready.
    """

    row: Job
    position: int | None = None
    eta_s: int | None = None
    is_loaded: bool = True

    @property
    def public_id(self) -> str:
        """The id under which its consumer knows it."""
        return ids.to_public(self.row.pk)

    @property
    def reason(self) -> str:
        """Why it died, or went back the last time."""
        return describe_reason(self.row.error) or self.row.error

    @property
    def is_waiting(self) -> bool:
        """Whether no node has taken it."""
        return self.row.state == State.QUEUED

    @property
    def stage(self) -> tuple[str, str]:
        """Where it is, as a state for its badge and in a word."""
        if self.row.cancel_requested_at is not None and self.row.state in queue.LEASED:
            return "processing", "Stopping"
        match self.row.state:
            case State.LEASED:
                return "starting", "Starting"
            case State.DEAD:
                return "failed", "Failed"
        return self.row.state, self.row.get_state_display()


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of what waits, and where the next one begins."""

    lines: list[JobLine]
    next_after: str


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """One lease of a job for its account, which learns no more of a node than its number."""

    number: int
    node: int
    leased_at: datetime | None
    took_s: float | None
    state: str
    text: str


def list_jobs(account: Account, chosen: JobFilter | None = None) -> QuerySet[Job]:
    """What the account has in the queue, the urgent first; all, or what was chosen."""
    jobs = Job.objects.filter(account_id=account.pk, state__in=OPEN)
    if chosen is not None:
        jobs = _choose(jobs, chosen)
    return (
        jobs.select_related("version__model__account")
        .defer("version__interface", "version__model__card")
        .order_by("priority", "pk")
    )


def _choose(jobs: QuerySet[Job], chosen: JobFilter) -> QuerySet[Job]:
    if chosen.model:
        owner, _, name = chosen.model.partition("/")
        jobs = jobs.filter(version__model__account__slug=owner, version__model__name=name)
    if chosen.tag:
        jobs = jobs.filter(tag=chosen.tag)
    if chosen.state:
        states = (State.QUEUED,) if chosen.state == "waiting" else queue.LEASED
        jobs = jobs.filter(state__in=states)
    return jobs


def list_waiting(
    account: Account, chosen: JobFilter | None = None, *, until: UUID | None = None
) -> QuerySet[Job]:
    """Those that no node has taken; with `until` those that came no later than this one."""
    jobs = list_jobs(account, chosen).filter(state=State.QUEUED)
    return jobs if until is None else jobs.filter(pk__lte=until)


def list_running(account: Account, chosen: JobFilter | None = None) -> list[JobLine]:
    """Those that nodes have taken, the first to be taken first."""
    jobs = list_jobs(account, chosen).filter(state__in=queue.LEASED).order_by("leased_at", "pk")
    return [JobLine(one) for one in jobs[:RUNNING_SHOWN]]


def list_dead(account: Account, chosen: JobFilter | None = None) -> list[JobLine]:
    """Those that no node could run, the newest first; what is over else is a prediction."""
    jobs = Job.objects.filter(
        account_id=account.pk, finished_at__isnull=False, state=State.DEAD
    ).select_related("version__model__account")
    if chosen is not None:
        # They neither wait nor run.
        jobs = jobs.none() if chosen.state else _choose(jobs, chosen)
    found = jobs.defer("version__interface", "version__model__card").order_by("-finished_at")
    return [JobLine(one) for one in found[:DEAD_SHOWN]]


def get_page(account: Account, chosen: JobFilter | None = None, *, after: str = "") -> JobPage:
    """A page of what waits.

    Args:
        account: Whose.
        chosen: Which part of it; None for all.
        after: `next_after` of the page before; empty for the first page.

    Raises:
        InvalidInputError: `after` is none.
    """
    jobs = list_waiting(account, chosen)
    if after:
        priority, last = _read_place(after)
        jobs = jobs.filter(Q(priority__gt=priority) | Q(priority=priority, pk__gt=last))
    # One more than shown tells whether there are more, without counting them all.
    rows = list(jobs[: PAGE_SIZE + 1])
    lines = place(rows[:PAGE_SIZE])
    end = lines[-1] if len(rows) > PAGE_SIZE else None
    return JobPage(lines, f"{end.row.priority}.{end.public_id}" if end else "")


def _read_place(text: str) -> tuple[int, UUID]:
    priority, _, public_id = text.partition(".")
    if priority not in {str(one.value) for one in Job.Priority}:
        raise InvalidInputError("This is no place in the queue.")
    return int(priority), read_id(public_id)


# Of those on offer, the rank decides; what its account has not on offer yet comes behind them, in
# the order in which it will be offered.
_POSITIONS = """
    WITH wanted AS MATERIALIZED (
        SELECT j.id, j.account_id, j.version_id, j.is_offered FROM inference_job j
        WHERE j.id = ANY(%(ids)s) AND j.state = 'queued'
    ), offered AS (
        SELECT o.id, o.position FROM (SELECT DISTINCT w.version_id FROM wanted w) v
        CROSS JOIN LATERAL (
            SELECT f.id, row_number() OVER (ORDER BY f.rank_at, f.deadline_at, f.id) AS position
            FROM (SELECT j.id, j.rank_at, j.deadline_at FROM inference_job j
                WHERE j.version_id = v.version_id AND j.state = 'queued' AND j.is_offered
                ORDER BY j.rank_at, j.deadline_at LIMIT %(most)s) f
        ) o
    ), parked AS (
        SELECT p.id, p.position + c.offered_count AS position
        FROM (SELECT DISTINCT w.account_id, w.version_id FROM wanted w WHERE NOT w.is_offered) v
        CROSS JOIN LATERAL (
            SELECT count(*) AS offered_count FROM (SELECT 1 FROM inference_job j
                WHERE j.version_id = v.version_id AND j.state = 'queued' AND j.is_offered
                LIMIT %(most)s) f
        ) c CROSS JOIN LATERAL (
            SELECT f.id, row_number() OVER (ORDER BY f.priority, f.id) AS position
            FROM (SELECT j.id, j.priority FROM inference_job j
                WHERE j.account_id = v.account_id AND j.version_id = v.version_id
                    AND j.state = 'queued' AND NOT j.is_offered
                ORDER BY j.priority, j.id LIMIT %(most)s) f
        ) p
    )
    SELECT w.id, coalesce(o.position, p.position) FROM wanted w
    LEFT JOIN offered o ON o.id = w.id LEFT JOIN parked p ON p.id = w.id
"""


def place(jobs: Sequence[Job]) -> list[JobLine]:
    """Jobs with their places, counted together: three statements for however many."""
    waiting = [one for one in jobs if one.state == State.QUEUED]
    if not waiting:
        return [JobLine(one) for one in jobs]
    with connection.cursor() as cursor:
        cursor.execute(_POSITIONS, {"ids": [one.pk for one in waiting], "most": POSITION_MAX})
        positions: dict[UUID, int | None] = dict(cursor.fetchall())
    versions = {one.version_id for one in waiting}
    means, places = queue.read_means(versions), queue.count_places(versions)
    return [
        JobLine(
            one,
            positions.get(one.pk),
            _predict(positions.get(one.pk), means.get(one.version_id), places.get(one.version_id)),
            is_loaded=one.state != State.QUEUED or bool(places.get(one.version_id)),
        )
        for one in jobs
    ]


def _predict(position: int | None, mean_s: float | None, place_count: int | None) -> int | None:
    if position is None or mean_s is None or not place_count:
        return None
    return queue.predict_wait_s(position - 1, mean_s, place_count)


def access_job(actor: Actor, public_id: str) -> Job:
    """A job of one of the actor's accounts.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
    """
    accounts = list_accounts(actor).values("pk")
    jobs = Job.objects.select_related("version__model__account")
    try:
        found = jobs.filter(pk=ids.from_public(public_id), account_id__in=accounts).first()
    except ValueError:
        found = None
    if found is None:
        raise NotFoundError("No such prediction.")
    return found


def describe_loading(version_id: UUID) -> str:
    """How far the furthest copy of a version is on its way to a node; empty for none."""
    copies = Replica.objects.filter(version=version_id, wanted=True, state__in=_LOADING)
    found = max(copies, key=lambda one: _LOADING.index(one.state), default=None)
    if found is None:
        return ""
    word = str(found.get_state_display())
    if found.state == Replica.State.FETCHING and 0 < found.progress <= 1:
        return f"{word} {found.progress:.0%}".replace("%", " %")
    return word


def list_attempts(job_id: UUID, running: Job | None = None) -> list[AttemptLine]:
    """How often a job was tried, the first time first; with `running`, also what goes on now."""
    rows = list(JobAttempt.objects.filter(job_id=job_id).order_by("epoch")[:ATTEMPTS_SHOWN])
    numbers: dict[Any, int] = {}
    lines = [
        AttemptLine(
            number,
            numbers.setdefault(one.node_id, len(numbers) + 1),
            one.leased_at,
            (one.ended_at - one.leased_at).total_seconds() if one.leased_at else None,
            "failed" if one.outcome in ("lost", "dead") else one.outcome,
            _describe_end(one),
        )
        for number, one in enumerate(rows, 1)
    ]
    if running is not None and running.state in queue.LEASED:
        node = numbers.setdefault(running.lease_node_id, len(numbers) + 1)
        state, text = JobLine(running).stage
        lines.append(AttemptLine(len(rows) + 1, node, running.leased_at, None, state, text))
    return lines


def _describe_end(attempt: JobAttempt) -> str:
    reason = describe_reason(attempt.code) or attempt.code
    match attempt.outcome:
        case "lost":
            return f"{reason} It went back into the queue.".strip()
        case "dead":
            return f"{reason} No attempt was left.".strip()
        case "succeeded":
            return "Succeeded."
    return reason or attempt.outcome.capitalize()


def list_deliveries(
    account_id: UUID, prediction_id: UUID, *, since: datetime, until: datetime
) -> list[WebhookDelivery]:
    """What was told of a prediction between its begin and its end, the first message first."""
    made = WebhookDelivery.objects.filter(
        account=account_id,
        prediction_id=prediction_id,
        # Ids begin with the time: they find the deliveries by the index of the account.
        pk__gte=ids.lowest_id(since - _SLACK),
        pk__lt=ids.lowest_id(until + _SLACK),
    )
    return list(made.order_by("pk")[:DELIVERIES_SHOWN])


def read_id(text: str) -> UUID:
    """A public id as an id.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return ids.from_public(text)
    except ValueError as error:
        raise InvalidInputError("This is no id of a prediction.") from error
