from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.poll_connect_accounts")
def poll_connect_accounts() -> None:
    from billing.services.connect import poll_connect_accounts as service

    service()
