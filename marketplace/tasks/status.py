from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.sample_status")
def sample_status() -> None:
    """Count for this minute how each part of the platform is."""
    from marketplace.services.status import sample_status as service

    service()
