from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.mail_signing_keys")
def mail_signing_keys() -> None:
    """Tell owners about keys that were registered in their accounts."""
    from inference.services.signing_key import mail_signing_keys as service

    service()
