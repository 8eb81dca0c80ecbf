"""Whether a creator's payouts are held: the one place that payouts ask."""

from __future__ import annotations

from uuid import UUID


def has_payout_hold(creator_id: UUID) -> bool:
    """Whether somebody decided that nothing is paid to this creator for now.

    Args:
        creator_id: The account.

    Returns:
        False: nothing in this release holds payouts of an account that is not suspended.
    """
    return False
