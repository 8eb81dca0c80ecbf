"""Read whether an admin sees the site as somebody else."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser

from marketplace.core.clock import utc_now
from marketplace.models import Impersonation, User

End = Impersonation.End


def find_running(impersonation_id: str, admin: User | AnonymousUser) -> Impersonation | None:
    """The one of this id that nobody ended, if it is this admin's."""
    if not isinstance(admin, User):
        return None
    return (
        Impersonation.objects.select_related("admin", "person")
        .filter(pk=impersonation_id, admin_id=admin.pk, ended_at=None)
        .first()
    )


def find_obstacle(running: Impersonation) -> Impersonation.End | None:
    """Why it must not go on; None if it may."""
    if running.expires_at <= utc_now():
        return End.TIME
    is_admin = running.admin.is_staff and running.admin.is_active
    if not is_admin or not may_be_seen_as(running.person):
        return End.NOT_ALLOWED
    return None


def may_be_seen_as(person: User) -> bool:
    """Nobody acts, or looks, as a platform admin but that admin."""
    return person.is_active and not person.is_staff and not person.is_superuser
