"""Tell people something on top of every page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.models import Announcement
from marketplace.selectors.access import Actor
from marketplace.selectors.announcement import forget_announcements
from marketplace.services import audit
from marketplace.services.admin import require_admin
from marketplace.services.validation import check_row

# A page of the site, or one elsewhere that is encrypted on the way.
LINK_PATTERN = re.compile(r"(?:/(?!/)|https://[^\s/?#]+(?=[/?#]|\Z))[^\s\\]*\Z")
FIELDS = frozenset(
    {"text", "link", "link_text", "audience", "tone", "is_dismissible", "starts_at", "ends_at"}
)


def announce(*, actor: Actor, fields: Mapping[str, Any]) -> Announcement:
    """Put an announcement up; people see it from its begin to its end.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: A field is not valid, or it would be shown for too long.
    """
    assert set(fields) <= FIELDS, set(fields) - FIELDS
    user = require_admin(actor)
    row = Announcement(**fields, created_by=user)
    row.text = " ".join(row.text.split())
    if row.link and not LINK_PATTERN.match(row.link):
        _refuse("/link", "An address of this site that begins with /, or one with https://.")
    if row.ends_at <= max(row.starts_at, utc_now()):
        _refuse("/ends_at", "It would end before it begins.")
    if row.ends_at - row.starts_at > limits.ANNOUNCEMENT_LIFETIME_MAX:
        _refuse("/ends_at", f"At most {limits.ANNOUNCEMENT_LIFETIME_MAX.days} days.")
    if bool(row.link) != bool(row.link_text):
        _refuse("/link_text" if row.link else "/link", "A link has an address and words.")
    check_row(row)
    with transaction.atomic():
        row.save(force_insert=True)
        told = {"text": row.text, "audience": row.audience, "link": row.link}
        audit.record(actor.label, "announcement.make", row, payload=told)
        transaction.on_commit(forget_announcements)
    return row


def end_announcement(*, actor: Actor, announcement: Announcement) -> None:
    """Take it down now; one that is over stays as it was."""
    require_admin(actor)
    with transaction.atomic():
        row = Announcement.objects.select_for_update(no_key=True).get(pk=announcement.pk)
        now = utc_now()
        if row.ends_at <= now:
            return
        # One that had not begun was never shown.
        row.starts_at = min(row.starts_at, now - timedelta(seconds=1))
        row.ends_at = now
        row.save(update_fields=["starts_at", "ends_at"])
        audit.record(actor.label, "announcement.end", row, payload={"text": row.text})
        transaction.on_commit(forget_announcements)


def _refuse(pointer: str, detail: str) -> None:
    raise InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])
