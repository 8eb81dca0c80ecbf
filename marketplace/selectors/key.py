"""Read API keys."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from marketplace.core import keys
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, APIKey
from marketplace.selectors.access import Actor, list_accounts, require_right

# A last use is shown to the minute; more writes would say no more.
LAST_USE_PRECISION = timedelta(minutes=1)


def find_valid_key(text: str) -> APIKey | None:
    """The key of this text if it may be used now; its last use is noted."""
    if not keys.is_well_formed(text):
        return None
    now = timezone.now()
    api_key = (
        APIKey.objects.select_related("account", "created_by")
        .filter(digest=keys.digest(text), revoked_at=None)
        .filter(Q(expires_at=None) | Q(expires_at__gt=now))
        .first()
    )
    if api_key is not None and (
        api_key.last_used_at is None or now - api_key.last_used_at > LAST_USE_PRECISION
    ):
        APIKey.objects.filter(pk=api_key.pk).update(last_used_at=now)
    return api_key


def list_keys(account: Account) -> QuerySet[APIKey]:
    """An account's keys, newest first; revoked ones stay in the list."""
    return (
        APIKey.objects.filter(account=account)
        .select_related("account", "created_by")
        .order_by("-created_at")
    )


def access_key(actor: Actor, key_id: UUID, right: str = "keys") -> APIKey:
    """A key of one of the actor's own accounts.

    Raises:
        NotFoundError: No key of the actor's accounts has this id.
        ForbiddenError: The actor belongs to the account, without this right.
    """
    api_key = (
        APIKey.objects.select_related("account")
        .filter(pk=key_id, account__in=list_accounts(actor))
        .first()
    )
    if api_key is None:
        raise NotFoundError("No such key.")
    require_right(actor, api_key.account, right)
    return api_key


def list_live_keys(account: Account) -> QuerySet[APIKey]:
    """An account's keys that can be used now, newest first."""
    unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    return list_keys(account).filter(unexpired, revoked_at=None)
