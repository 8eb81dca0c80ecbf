"""Credit for who pays, as a top-up brings it."""

from __future__ import annotations

from billing.models import LedgerAccount, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.models import Account


def fund(account: Account, nanos: int) -> None:
    """Put credit into an account's wallet."""
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={clearing_id: -nanos, wallet_id: nanos},
    )


def read_balance(kind: LedgerAccount.Kind, account: Account | None = None) -> int:
    """What a ledger account holds, the platform's without a holder; 0 before its first money."""
    row = LedgerAccount.objects.filter(kind=kind, holder=account).first()
    return 0 if row is None else row.posted_nanos
