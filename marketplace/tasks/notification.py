from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.tell_announcements")
def tell_announcements() -> None:
    """Put announcements that have begun into inboxes."""
    from marketplace.services.notification import tell_announcements as service

    service()


@shared_task(name="marketplace.forget_notifications")
def forget_notifications() -> None:
    """Delete what stands in inboxes for too long."""
    from marketplace.services.notification import forget_notifications as service

    service()
