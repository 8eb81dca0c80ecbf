"""Whether a creator's payouts are held: the one place that payouts ask."""

from __future__ import annotations

from marketplace.models import Account


def has_payout_hold(creator: Account) -> bool:
    """Whether somebody decided that nothing is paid to this creator for now.

    Nothing holds payouts of an account that is not suspended.
    """
    return False
