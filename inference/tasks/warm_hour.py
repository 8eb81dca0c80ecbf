from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.charge_warm_hours")
def charge_warm_hours() -> None:
    """Charge versions that are always warm for the hours that are over."""
    from inference.services.warm_hour import charge_warm_hours as service

    service()
