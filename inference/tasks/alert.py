from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.send_alerts")
def send_alerts() -> None:
    """Send what waits to be told."""
    from inference.services import alert

    alert.send_alerts()
