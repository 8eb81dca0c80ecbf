"""Read deletions of accounts."""

from __future__ import annotations

from marketplace.models import Account, AccountDeletion

State = AccountDeletion.State


def find_open(account: Account) -> AccountDeletion | None:
    """The deletion that waits or is under way; None if there is none."""
    rows = account.deletions.filter(state__in=[State.PENDING, State.RUNNING])
    return rows.select_related("requested_by").first()
