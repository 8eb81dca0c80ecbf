"""Keep a person from signing in: sessions and tokens end with the next request."""

from __future__ import annotations

from django.db import transaction

from marketplace.core.errors import ForbiddenError
from marketplace.models import Notification, User
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.notice import owe_notice


def set_blocked(*, actor: Actor, person: User, is_blocked: bool, reason: str) -> None:
    """Block a person or let it in again; the same again changes nothing.

    Args:
        actor: A platform admin; not the person itself.
        person: Nobody of the platform.
        is_blocked: What shall be.
        reason: Why; the person reads it in a mail.

    Raises:
        ForbiddenError: No platform admin, or the person is one.
        InvalidInputError: The reason is missing or too long.
    """
    require_admin(actor)
    reason = check_reason(reason)
    if person.is_staff or person.is_superuser:
        raise ForbiddenError("Platform admins are not blocked from here.")
    with transaction.atomic():
        locked = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        if locked.is_active != is_blocked:
            person.is_active = locked.is_active
            return
        locked.is_active = not is_blocked
        locked.save(update_fields=["is_active"])
        action = "user.block" if is_blocked else "user.unblock"
        audit.record(actor.label, action, locked, payload={"reason": reason})
        context = {"is_blocked": is_blocked, "reason": reason}
        owe_notice("person_blocked", context, kind=Notification.Kind.SECURITY, person=locked)
    person.is_active = locked.is_active
