from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.mail_security_notices")
def mail_security_notices() -> None:
    """Tell people how the way they sign in has changed."""
    from marketplace.services.security_notice import mail_notices

    mail_notices()


@shared_task(name="marketplace.forget_sessions")
def forget_sessions() -> None:
    """Delete sessions that have ended, and what was mailed about them long ago."""
    from marketplace.services.security_notice import forget_notices
    from marketplace.services.session import forget_sessions as service

    service()
    forget_notices()
