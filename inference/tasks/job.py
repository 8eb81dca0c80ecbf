from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.archive_jobs")
def archive_jobs() -> None:
    """Move what is over out of the queue."""
    from inference.services import job

    job.archive_jobs()


@shared_task(name="inference.end_unplaceable_jobs")
def end_unplaceable_jobs() -> None:
    """End what waits and fits on no node."""
    from inference.services import job

    job.end_unplaceable()
