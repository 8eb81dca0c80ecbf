from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.mail_price_rises")
def mail_price_rises() -> None:
    from billing.services.price_notice import mail_price_rises as service

    service()
