"""Give jobs up for their account: one, or all that wait of a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import connection, transaction

from inference.models import Job
from inference.selectors.job import OPEN, JobFilter, list_waiting
from marketplace.core import ids
from marketplace.core.errors import ConflictError
from marketplace.models import Account
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit

RIGHT = "predict"
# So many are canceled while the page waits: well below a second.
AT_ONCE_MAX = 50
# What a worker reads at a time, and how often before it lets other tasks pass. Each job is a
# transaction of its own: it locks money.
PORTION_SIZE, PORTIONS_MAX = 500, 4


def cancel_job(*, actor: Actor, account: Account, job: Job) -> str:
    """Give a job up; what runs is told to stop.

    Returns:
        Its state then: canceled, or still leased or running.

    Raises:
        ForbiddenError: The actor may not run predictions for the account.
        ConflictError: It is over, or was told to stop before.
    """
    require_right(actor, account, RIGHT)
    with transaction.atomic():
        locked = Job.objects.select_for_update().get(pk=job.pk, account_id=account.pk)
        if locked.state not in OPEN or locked.cancel_requested_at is not None:
            raise ConflictError("It is over or being stopped: nothing is left to cancel.")
        state = _cancel(account.pk, job.pk)
        audit.record(actor.label, "job.cancel", job, account_id=account.pk)
    return state


def cancel_waiting(
    *, actor: Actor, account: Account, chosen: JobFilter, until: UUID
) -> tuple[int, bool]:
    """Give up all that wait of a part, without those that came after `until`.

    Returns:
        How many there are, and whether all of them are canceled now; many are left to a worker.

    Raises:
        ForbiddenError: The actor may not run predictions for the account.
    """
    require_right(actor, account, RIGHT)
    jobs = list_waiting(account, chosen, until=until)
    count = jobs.count()
    payload = {"count": count, "model": chosen.model, "tag": chosen.tag}
    with transaction.atomic():
        audit.record(
            actor.label, "job.cancel_waiting", account, account_id=account.pk, payload=payload
        )
    if count <= AT_ONCE_MAX:
        _cancel_each(account.pk, list(jobs.values_list("pk", flat=True)))
        return count, True
    _leave_to_worker(account, chosen, until)
    return count, False


def go_on_canceling(*, account: Account, chosen: JobFilter, until: UUID) -> None:
    """Do a worker's share of what `cancel_waiting` began, and ask for the next; may run twice."""
    for _ in range(PORTIONS_MAX):
        jobs = list_waiting(account, chosen, until=until)
        found = list(jobs.values_list("pk", flat=True)[:PORTION_SIZE])
        _cancel_each(account.pk, found)
        if len(found) < PORTION_SIZE:
            return
    _leave_to_worker(account, chosen, until)


def _leave_to_worker(account: Account, chosen: JobFilter, until: UUID) -> None:
    from inference import tasks

    tasks.cancel_waiting.delay(str(account.pk), chosen.model, chosen.tag, ids.to_public(until))


def _cancel_each(account_id: UUID, job_ids: Sequence[UUID]) -> None:
    for job_id in job_ids:
        _cancel(account_id, job_id)


def _cancel(account_id: UUID, job_id: UUID) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inference_cancel_job(%s, %s)", [account_id, job_id])
        return str(cursor.fetchone()[0])
