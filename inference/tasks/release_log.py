from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.anchor_release_logs")
def anchor_release_logs() -> None:
    """Tie the release logs of all versions to the platform's audit log."""
    from inference.services import release_log

    release_log.anchor()
