from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.advance_batches")
def advance_batches() -> None:
    """Read the files of batches, and note what became of their lines."""
    from inference.services import batch_run

    batch_run.advance_batches()


@shared_task(name="inference.forget_batches")
def forget_batches() -> None:
    """Delete batches whose time is over."""
    from inference.services import batch

    batch.forget_batches()
