"""Freeze an account: it can neither spend nor buy, until its payments are clear."""

from __future__ import annotations

from uuid import UUID

from django.db.models.functions import Now

from marketplace.models import Account


def set_frozen(account_id: UUID, *, is_frozen: bool) -> bool:
    """Write whether an account is frozen; gateways hear of it at once.

    Why, and who may lift it, is for the caller to know and to record.

    Returns:
        Whether that changed anything.
    """
    rows = Account.objects.filter(pk=account_id, frozen_at__isnull=is_frozen)
    return bool(rows.update(frozen_at=Now() if is_frozen else None))
