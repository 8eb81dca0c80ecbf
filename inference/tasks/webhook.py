from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.send_webhooks")
def send_webhooks() -> None:
    """Send what happened to predictions to those who want to be told."""
    from inference.services import webhook_delivery

    webhook_delivery.send_webhooks()


@shared_task(name="inference.forget_webhooks")
def forget_webhooks() -> None:
    """Delete old events and what became of them."""
    from inference.services import webhook_delivery

    webhook_delivery.forget_webhooks()
