from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.release_earnings")
def release_earnings() -> None:
    from billing.services.release import release_earnings as service

    service()
