from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.mail_notices")
def mail_notices() -> None:
    """Send the mails that the platform owes."""
    from marketplace.services.notice import mail_notices as service

    service()
