"""Forget a person: who it was is replaced by a pseudonym, and all ways to sign in are deleted.

The row stays: reviews, ledger rows and the audit log point to it. What the audit log said of the
person when it acted stays as it was said, for every entry is bound to the one before.
"""

from __future__ import annotations

from django.db import transaction
from django.urls import reverse

from marketplace.core.clock import utc_now
from marketplace.errors import DeletionBlockedError
from marketplace.models import (
    Account,
    APIKey,
    Authenticator,
    Membership,
    Notice,
    Notification,
    NotificationPreference,
    Passkey,
    RecoveryCode,
    SecurityNotice,
    User,
)
from marketplace.selectors.account_deletion import find_open
from marketplace.services import audit, closing
from marketplace.services.closing import Obstacle
from marketplace.services.session import drop_sessions

Role = Membership.Role
# A domain that can never exist (RFC 2606), so that no mail goes anywhere.
_DOMAIN = "deleted.invalid"


def list_obstacles(user: User) -> list[Obstacle]:
    """What a person has to settle before it can be forgotten."""
    found = []
    if user.is_staff:
        reason = "You are an admin of the platform."
        found.append(Obstacle("staff", reason, "Another admin takes that right from you first."))
    owned = user.memberships.filter(role=Role.OWNER).select_related("account")
    for membership in owned.order_by("account__slug"):
        account = membership.account
        if account.memberships.filter(role=Role.OWNER).exclude(user=user).exists():
            continue
        url = reverse("marketplace:account-delete", args=[account.slug])
        remedy = "Make somebody else an owner, or delete the account first."
        if find_open(account) is not None:
            remedy = "It is going to be deleted; come back when it is gone."
        reason = f"Nobody else owns the account {account.slug}."
        found.append(Obstacle("only_owner", reason, remedy, url))
    return found


def erase_person(*, user: User) -> None:
    """Forget a person for good. Repeating it changes nothing.

    Raises:
        DeletionBlockedError: Something has to be settled first; nothing was changed.
    """
    pseudonym = f"{user.pk.hex}@{_DOMAIN}"
    with transaction.atomic():
        # Of two owners who leave at once, the second finds itself the last.
        mine = Account.objects.filter(pk__in=user.memberships.values("account"))
        list(mine.select_for_update(no_key=True).order_by("pk"))
        locked = User.objects.select_for_update().get(pk=user.pk)
        if locked.email == pseudonym:
            return
        obstacles = list_obstacles(locked)
        if obstacles:
            raise DeletionBlockedError(obstacles[0].reason)
        label = f"user:{locked.email}"
        drop_sessions(user=locked)
        APIKey.objects.filter(created_by=locked, mode=APIKey.Mode.TOKEN, revoked_at=None).update(
            revoked_at=utc_now()
        )
        _delete_rows(locked)
        locked.email, locked.name = pseudonym, ""
        locked.is_active, locked.email_verified_at, locked.last_login = False, None, None
        locked.set_unusable_password()
        locked.save()
        closing.forget_person(locked, label, f"user:{pseudonym}")
        audit.record(f"user:{pseudonym}", "user.erase", locked)


def _delete_rows(user: User) -> None:
    mine = {"user": user}
    Authenticator.objects.filter(**mine).delete()
    Passkey.objects.filter(**mine).delete()
    RecoveryCode.objects.filter(**mine).delete()
    SecurityNotice.objects.filter(**mine).delete()
    Membership.objects.filter(**mine).delete()
    Notice.objects.filter(person=user).delete()
    Notification.objects.filter(person=user).delete()
    NotificationPreference.objects.filter(person=user).delete()
