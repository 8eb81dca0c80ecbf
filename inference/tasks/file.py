from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.sweep_files")
def sweep_files() -> None:
    """Delete files whose time is over, and what was left half stored."""
    from inference.services import file

    file.sweep_files()
