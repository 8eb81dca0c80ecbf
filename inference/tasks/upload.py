from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.expire_uploads")
def expire_uploads() -> None:
    """Close uploads whose time is over and free their space."""
    from inference.services import upload

    upload.expire_uploads()
