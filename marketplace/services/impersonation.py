"""Begin and end that an admin sees the site as somebody else, with a line for the owners."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import ForbiddenError
from marketplace.models import Account, Impersonation, User
from marketplace.selectors.access import Actor
from marketplace.selectors.impersonation import may_be_seen_as
from marketplace.services import audit
from marketplace.services.admin import check_reason, require_admin

# What is kept of an address; longer ones are searches.
PATH_LENGTH_MAX = 300


def begin(*, actor: Actor, person: User, reason: str) -> Impersonation:
    """Let an admin see what a person sees; one that the admin had begun before ends.

    Args:
        actor: A platform admin.
        person: Anybody who is none.
        reason: Why. The owners of the person's accounts can read it.

    Raises:
        ForbiddenError: No platform admin; or the person is one, or may not sign in.
        InvalidInputError: The reason is missing or too long.
    """
    admin = require_admin(actor)
    reason = check_reason(reason)
    if not may_be_seen_as(person):
        raise ForbiddenError("Nobody sees the site as a platform admin, or as who is blocked.")
    now = utc_now()
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=admin.pk)
        for other in Impersonation.objects.filter(admin=admin, ended_at=None):
            end(running=other, end=Impersonation.End.STOPPED)
        running = Impersonation.objects.create(
            admin=admin,
            person=person,
            reason=reason,
            expires_at=now + limits.IMPERSONATION_LIFETIME,
        )
        _record(running, "impersonation.begin", {"reason": reason})
    return running


def end(*, running: Impersonation, end: Impersonation.End) -> None:
    """End it; a second time changes nothing."""
    with transaction.atomic():
        rows = Impersonation.objects.filter(pk=running.pk, ended_at=None)
        if rows.update(ended_at=utc_now(), end=end):
            _record(running, "impersonation.end", {"end": str(end.label)})


def note_view(*, running: Impersonation, path: str) -> None:
    """Write down which page was looked at."""
    with transaction.atomic():
        _record(running, "impersonation.view", {"page": path[:PATH_LENGTH_MAX]})


def _record(running: Impersonation, action: str, payload: dict[str, str]) -> None:
    """One line for each account that the person belongs to: each has owners of its own."""
    accounts = Account.objects.filter(memberships__user=running.person).order_by("slug")
    account_ids: list[UUID | None] = [*accounts.values_list("pk", flat=True)] or [None]
    if action == "impersonation.view":
        # Begin and end are everybody's to know; the pages are told once.
        account_ids = account_ids[:1]
    for account_id in account_ids:
        audit.record(
            Actor(user=running.admin).label,
            action,
            running,
            account_id=account_id,
            payload={"person": running.person.email, **payload},
        )
