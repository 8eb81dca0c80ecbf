"""Hours through which a version was kept loaded, paid from its owner's wallet.

What was kept loaded is not known here; see `marketplace.services.cashier`.
"""

from __future__ import annotations

from datetime import UTC

from django.db import transaction

from billing.errors import TransferConflictError
from billing.models import LedgerAccount, Transfer
from billing.selectors.ledger import find_ledger_account
from billing.services import ledger
from marketplace.core.errors import AccountFrozenError, InsufficientCreditError
from marketplace.core.ids import new_id
from marketplace.models import Account
from marketplace.services.cashier import Cashier, WarmHour


def check(account: Account, amount_nanos: int) -> None:
    """See that a wallet could pay an amount now. What is reserved for predictions cannot.

    Raises:
        AccountFrozenError: Nothing is paid before the account's payments are clear.
        InsufficientCreditError: It does not hold so much.
    """
    _check_frozen(account)
    wallet = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    if wallet is None or wallet.available_nanos < amount_nanos:
        raise InsufficientCreditError


def charge(hour: WarmHour) -> bool:
    """Move an hour from the wallet to the platform, once for all; true if it moved now.

    Raises:
        AccountFrozenError: Nothing is paid before the account's payments are clear.
        InsufficientCreditError: The wallet does not hold it; nothing moved, and nothing is owed.
    """
    assert hour.amount_nanos > 0, "an hour that costs nothing is not charged"
    _check_frozen(hour.account)
    kinds = LedgerAccount.Kind
    wallet_id = ledger.get_ledger_account_id(kinds.WALLET, holder_id=hour.account.pk)
    revenue_id = ledger.get_ledger_account_id(kinds.PLATFORM_REVENUE)
    try:
        # A refusal leaves the caller's transaction as it was.
        with transaction.atomic():
            return ledger.post_transfer(
                transfer_id=new_id(),
                kind=Transfer.Kind.WARM_HOUR,
                idempotency_key=name_hour(hour),
                reference=str(hour.version_id),
                amounts_nanos={wallet_id: -hour.amount_nanos, revenue_id: hour.amount_nanos},
            )
    except TransferConflictError:
        # This hour was paid, if at another price: it is not paid again.
        return False


def name_hour(hour: WarmHour) -> str:
    """The key under which an hour is charged, whoever charges it and however often."""
    return f"warm_hour:{hour.deployment_id}:{hour.starts_at.astimezone(UTC):%Y-%m-%dT%HZ}"


def _check_frozen(account: Account) -> None:
    account.refresh_from_db(fields=["frozen_at"])
    if account.frozen_at is not None:
        raise AccountFrozenError


CASHIER = Cashier(check=check, charge=charge)
