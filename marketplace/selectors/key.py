"""Read API keys."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone

from marketplace.core import keys
from marketplace.models import Account, APIKey

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
    return APIKey.objects.filter(account=account).order_by("-created_at")
