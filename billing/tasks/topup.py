from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.poll_topups")
def poll_topups() -> None:
    from billing.services.topup import note_payments
    from billing.services.topup import poll_topups as service

    service()
    note_payments()
