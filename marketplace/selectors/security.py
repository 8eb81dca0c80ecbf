"""What a person may sign in with."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from marketplace.models import Authenticator, Passkey, User
from marketplace.selectors.found import get_one


def find_authenticator(user: User, *, is_confirmed: bool = True) -> Authenticator | None:
    """The app in use; else, if asked for, the one that waits for its first code."""
    rows = Authenticator.objects.filter(user=user, confirmed_at__isnull=not is_confirmed)
    return rows.select_related("user").first()


def list_passkeys(user: User) -> QuerySet[Passkey]:
    """The person's passkeys, the oldest first."""
    return Passkey.objects.filter(user=user).order_by("created_at")


def access_passkey(user: User, passkey_id: UUID) -> Passkey:
    """One of the person's own. Raises `NotFoundError`."""
    return get_one(list_passkeys(user).filter(pk=passkey_id), "No such passkey.")


def has_factor(user: User) -> bool:
    """Whether signing in takes more than the password."""
    return find_authenticator(user) is not None or list_passkeys(user).exists()


def count_recovery_codes(user: User) -> int:
    """How many are left."""
    return user.recovery_codes.filter(used_at=None).count()
