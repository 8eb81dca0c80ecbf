"""Read dead jobs: those that no node could run, and that an admin may have run again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Exists, Min, OuterRef, QuerySet

from inference.models import FinishedJob, Job, JobAttempt, JobInput, Node
from marketplace.core import ids
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, AuditEvent, ModelVersion
from marketplace.selectors.found import get_one

# Of one job; it has at most a handful, and a handful more for each time it was run again.
ATTEMPTS_SHOWN = 50
# A page chooses among the most frequent ones.
CHOICES_SHOWN = 100


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """A part of the dead jobs; empty for all of them."""

    model: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A lease that is over, and on which node it was."""

    row: JobAttempt
    node_name: str

    @property
    def took_s(self) -> float | None:
        """From the lease to its end."""
        if self.row.leased_at is None:
            return None
        return (self.row.ended_at - self.row.leased_at).total_seconds()


def list_dead(chosen: DeadFilter | None = None) -> QuerySet[Job]:
    """Dead jobs with their versions, the newest first; `has_input` says whether one can run."""
    # By its end, which an index knows: the queue itself is large, what has ended in it is not.
    jobs = Job.objects.filter(finished_at__isnull=False, state=Job.State.DEAD)
    if chosen is not None and chosen.model:
        owner, _, name = chosen.model.partition("/")
        jobs = jobs.filter(version__model__account__slug=owner, version__model__name=name)
    if chosen is not None and chosen.reason:
        jobs = jobs.filter(error=chosen.reason)
    return (
        jobs.annotate(has_input=Exists(JobInput.objects.filter(job=OuterRef("pk"))))
        .select_related("version__model__account")
        .defer("version__interface", "version__model__card")
        .order_by("-finished_at", "-pk")
    )


def list_discarded() -> QuerySet[FinishedJob]:
    """Those that admins have given up, the latest first, for as long as their history is kept."""
    return FinishedJob.objects.filter(discarded_at__isnull=False).order_by("-discarded_at", "-pk")


def explain_discarded(jobs: Iterable[FinishedJob]) -> dict[UUID, tuple[str, str]]:
    """Who gave them up and why, as the audit log has it."""
    events = AuditEvent.objects.filter(
        action="job.discard", object_id__in=[str(one.pk) for one in jobs]
    )
    return {UUID(one.object_id): (one.actor, one.payload["reason"]) for one in events}


def name_versions(version_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Versions as `owner/model:number`."""
    found = ModelVersion.objects.filter(pk__in=set(version_ids)).select_related("model__account")
    return {one.pk: str(one) for one in found.defer("interface", "model__card")}


def count_dead() -> tuple[int, datetime | None]:
    """How many there are, and since when the first is dead."""
    found = list_dead().aggregate(count=Count("pk"), oldest=Min("finished_at"))
    return found["count"], found["oldest"]


def list_models() -> list[tuple[str, int]]:
    """Models that have dead jobs, with how many, the most first."""
    rows = (
        list_dead()
        .order_by()
        .values("version__model__account__slug", "version__model__name")
        .annotate(n=Count("pk"))
        .order_by("-n", "version__model__account__slug", "version__model__name")
    )
    names = rows.values_list("version__model__account__slug", "version__model__name", "n")
    return [(f"{owner}/{name}", count) for owner, name, count in names[:CHOICES_SHOWN]]


def list_reasons() -> list[tuple[str, int]]:
    """Why they died, with how many, the most first."""
    rows = list_dead().order_by().values("error").annotate(n=Count("pk")).order_by("-n", "error")
    return list(rows.values_list("error", "n")[:CHOICES_SHOWN])


def get_dead(public_id: str) -> Job:
    """A dead job, for platform admins.

    Raises:
        NotFoundError: There is none of that id; it may have been run again.
    """
    try:
        job_id = ids.from_public(public_id)
    except ValueError:
        raise NotFoundError("No such dead prediction.") from None
    return get_one(list_dead().filter(pk=job_id), "No such dead prediction.")


def list_attempts(job_id: UUID) -> list[Attempt]:
    """All leases of a job that are over, the latest first, with the names of their nodes."""
    rows = list(JobAttempt.objects.filter(job_id=job_id).order_by("-epoch")[:ATTEMPTS_SHOWN])
    names = dict(
        Node.objects.filter(pk__in=[one.node_id for one in rows]).values_list("pk", "name")
    )
    return [Attempt(one, names.get(one.node_id, "a node that has gone")) for one in rows]


def name_accounts(account_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The slugs of accounts."""
    found = Account.objects.filter(pk__in=set(account_ids))
    return dict(found.values_list("pk", "slug"))
