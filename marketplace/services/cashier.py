"""What serving costs an account besides predictions: taken by the package that keeps wallets.

Who serves knows what was served, and who keeps the wallets knows what is in them; neither knows
the other. The one that keeps them registers here how it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from marketplace.models import Account


@dataclass(frozen=True, slots=True)
class WarmHour:
    """An hour that is over, and through which a version was kept loaded.

    Args:
        account: Who pays: the owner of the version.
        deployment_id: What was kept loaded; with `starts_at` it names the hour for ever.
        version_id: Of which version, for the statement.
        starts_at: A full hour of UTC.
        amount_nanos: What it costs; above zero.
    """

    account: Account
    deployment_id: UUID
    version_id: UUID
    starts_at: datetime
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class Cashier:
    """How a wallet is asked.

    Args:
        check: Raises what `charge` would raise for that amount now; nothing is reserved.
        charge: Takes an hour out of its account's wallet, in the caller's transaction. False where
            it was taken before. Raises `InsufficientCreditError` or `AccountFrozenError`; then
            nothing has moved, and the transaction goes on.
    """

    check: Callable[[Account, int], None]
    charge: Callable[[WarmHour], bool]


_cashiers: list[Cashier] = []


def register_cashier(cashier: Cashier) -> None:
    """Ask this one from now on; called while the site starts."""
    _cashiers[:] = [cashier]


def get_cashier() -> Cashier:
    """Who is asked."""
    assert _cashiers, "billing registers one while the site starts"
    return _cashiers[0]
