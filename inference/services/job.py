"""Look after the queue of jobs where nobody waits for it: its archive, and what is dead.

What is urgent, leases and deadlines, every gateway looks after; see `inference.gateway.jobs`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from inference.models import FinishedJob, Job, JobInput
from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError, InsufficientCreditError
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one
from marketplace.services import audit

# Long enough to be seen among what happened just now.
ARCHIVED_AFTER = timedelta(minutes=10)
# How long an admin may run a dead one again; then it has failed for good.
DEAD_KEPT = timedelta(days=7)
HISTORY_KEPT = timedelta(days=30)
BATCH_SIZE = 1_000
# One sweep's share; the next one goes on.
BATCHES_MAX = 50
# Each is a transaction of its own, which gives money back; the next sweep goes on.
UNPLACEABLE_MAX = 1_000
REPLAY_TIMEOUT = timedelta(hours=1)


class JobNotDeadError(ConflictError):
    code = "job_not_dead"
    title = "Only a job that no node could run can be run again or discarded."


def archive_jobs() -> int:
    """Move what is over out of the queue, and forget what is old; returns how many rows."""
    count = _repeat(
        "SELECT inference_archive_jobs(%s, %s, %s)", [ARCHIVED_AFTER, DEAD_KEPT, BATCH_SIZE]
    )
    before = utc_now() - HISTORY_KEPT
    return count + _repeat("SELECT inference_forget_jobs(%s, %s)", [before, BATCH_SIZE])


def end_unplaceable() -> int:
    """End what waits and is larger than every node that there is; returns how many jobs.

    They are dead: an admin may run them again when there is a node for them.
    """
    count = 0
    while count < UNPLACEABLE_MAX and _call("SELECT inference_end_unplaceable()", []):
        count += 1
    return count


def replay_job(*, actor: Actor, job_id: UUID, reason: str = "") -> Job:
    """Run a dead job again, for a reason that the audit log keeps; its money is reserved anew.

    Raises:
        NotFoundError: There is no such job.
        JobNotDeadError: It is not dead.
        InsufficientCreditError: Its account cannot pay for it now.
    """
    job = get_one(Job.objects.filter(pk=job_id), "There is no such job.")
    if job.state == Job.State.DEAD and not JobInput.objects.filter(pk=job_id).exists():
        raise JobNotDeadError("Its input is gone: its account keeps nothing.")
    with transaction.atomic():
        outcome = _call(
            "SELECT inference_replay_job(%s, %s)", [job_id, REPLAY_TIMEOUT.total_seconds()]
        )
        if outcome == "not_dead":
            raise JobNotDeadError
        if outcome != "queued":
            raise InsufficientCreditError
        payload = {"reason": reason} if reason else {}
        audit.record(actor.label, "job.replay", job, account_id=job.account_id, payload=payload)
    job.refresh_from_db()
    return job


def discard_job(*, actor: Actor, job_id: UUID, reason: str) -> bool:
    """Give a dead job up, for a reason that the audit log keeps; once more changes nothing.

    To its account it stays a prediction that failed, and that cost nothing.

    Returns:
        Whether it was discarded now, and not before.

    Raises:
        JobNotDeadError: It is not dead; it may have been run again.
    """
    with transaction.atomic():
        outcome = _call("SELECT inference_discard_job(%s)", [job_id])
        if outcome == "not_dead":
            raise JobNotDeadError
        if outcome == "was_discarded":
            return False
        job = FinishedJob.objects.get(pk=job_id)
        audit.record(
            actor.label,
            "job.discard",
            job,
            account_id=job.account_id,
            payload={"reason": reason, "error": job.error},
        )
    return True


def cancel_jobs(account: Account) -> int:
    """Give up all that an account has waiting; what runs is told to stop. Returns how many."""
    open_states = (Job.State.QUEUED, Job.State.LEASED, Job.State.RUNNING)
    ids = Job.objects.filter(account_id=account.pk, state__in=open_states).values_list("pk")
    found = [job_id for (job_id,) in ids]
    for job_id in found:
        # One by one: each locks money.
        _call("SELECT inference_cancel_job(%s, %s)", [account.pk, job_id])
    return len(found)


def erase_jobs(account: Account) -> int:
    """Delete what an account's jobs carried, once they are over; returns how many had something."""
    return int(_call("SELECT inference_erase_jobs(%s)", [account.pk]))


def _repeat(query: str, parameters: list[Any]) -> int:
    total = 0
    for _ in range(BATCHES_MAX):
        count = int(_call(query, parameters))
        total += count
        if not count:
            break
    return total


def _call(query: str, parameters: list[Any]) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]
