"""Mail to a person about how it signs in: noted with the change, sent by a worker."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.mail import send_mail
from django.db import connection
from django.template.loader import render_to_string
from django.urls import reverse

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.models import Notification, SecurityNotice, User
from marketplace.services import notification
from marketplace.services.mail import mail_once

Kind = SecurityNotice.Kind
_BATCH = 100


def notify(user: User, kind: Kind, what: str = "", *, address: str | None = None) -> None:
    """Note a mail in the transaction of the change it tells of, and tell the inbox.

    Args:
        user: Whose way to sign in it is about.
        kind: What happened.
        what: A few words by which the person recognises it; cut where they are too many.
        address: Another than the person's present one.
    """
    assert connection.in_atomic_block, "the notice belongs into the transaction of the change"
    made = SecurityNotice.objects.create(
        user=user, address=address or user.email, kind=kind, what=what[:400]
    )
    notification.notify(
        Notification.Kind.SECURITY,
        user,
        key=f"security_notice:{made.pk}",
        title=kind.label.capitalize(),
        text=what,
        path=reverse("marketplace:security"),
    )


def mail_notices() -> int:
    """Send what waits; returns how many went."""
    waiting = SecurityNotice.objects.filter(mailed_at=None).order_by("created_at")
    locked = SecurityNotice.objects.select_related("user").select_for_update(
        skip_locked=True, of=("self",)
    )
    return sum(
        mail_once(
            locked,
            notice_id,
            what="security notice",
            list_addresses=lambda notice: [notice.address],
            send=_send,
        )
        for notice_id in waiting.values_list("pk", flat=True)[:_BATCH]
    )


def forget_notices() -> None:
    """Delete what was mailed long ago."""
    before = utc_now() - limits.NOTICE_MEMORY
    SecurityNotice.objects.filter(mailed_at__lt=before).delete()


def _send(notice: SecurityNotice, addresses: list[str]) -> None:
    context: dict[str, Any] = {
        "notice": notice,
        "url": settings.WEB_URL + reverse("marketplace:security"),
        "reset_url": settings.WEB_URL + reverse("marketplace:reset"),
    }
    send_mail(
        render_to_string("emails/security_subject.txt", context).strip(),
        render_to_string("emails/security.txt", context),
        None,
        addresses,
    )
