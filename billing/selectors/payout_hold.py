"""Whether a creator's payouts are held: the one place that payouts ask."""

from __future__ import annotations

from uuid import UUID

from billing.models import PayoutHold
from marketplace.models import Account


def has_payout_hold(creator: Account | UUID) -> bool:
    """Whether nothing may be paid out to an account before a case about it is decided.

    Args:
        creator: The account, or its id.
    """
    return PayoutHold.objects.filter(account=creator, released_at=None).exists()
