"""Move money. Thin over the SQL functions, which are the only writers of the ledger."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection, transaction

from billing.errors import TransferConflictError
from billing.models import LedgerAccount, Transfer
from marketplace.core.errors import InsufficientCreditError, MarketplaceError, NotFoundError

# How many late holds one transaction releases: their wallets are locked until its end.
EXPIRE_BATCH_SIZE = 500

ERRORS_BY_SQLSTATE: dict[str, type[MarketplaceError]] = {
    "SR402": InsufficientCreditError,
    "SR404": NotFoundError,
    "SR409": TransferConflictError,
}


def get_ledger_account_id(kind: LedgerAccount.Kind, *, holder_id: UUID | None = None) -> UUID:
    """The ledger account of a holder (None: the platform), made if there is none."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_account(%s, %s)", [holder_id, kind.value])
        return UUID(str(cursor.fetchone()[0]))


def lock_accounts(ledger_account_ids: Collection[UUID]) -> None:
    """Lock ledger accounts until the end of the transaction, in the order in which all do.

    Who posts more than one transfer in a transaction calls this first, with the accounts of
    all of them: each transfer alone locks in order, two after each other do not.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_lock(%s)", [list(ledger_account_ids)])


def post_transfer(
    *,
    transfer_id: UUID,
    kind: Transfer.Kind,
    idempotency_key: str,
    amounts_nanos: Mapping[UUID, int],
    reference: str = "",
    reverses_id: UUID | None = None,
) -> bool:
    """Move money between ledger accounts, at most once per idempotency key.

    Args:
        transfer_id: Id of the new row.
        kind: Why the money moved; statements show it.
        idempotency_key: Stored before the first attempt, the same on each retry.
        amounts_nanos: What each account gets (positive) or gives; the sum is zero.
        reference: What it belongs to elsewhere, such as an id at Stripe.
        reverses_id: The transfer that this one corrects.

    Returns:
        True if it was posted now, False if this call repeats an earlier one.

    Raises:
        InsufficientCreditError: An account would go below its floor; nothing moved.
        TransferConflictError: The key was used for another content.
        NotFoundError: A ledger account does not exist.
    """
    assert sum(amounts_nanos.values()) == 0, "a transfer is balanced"
    entries = [
        {"account": str(account_id), "amount": amount}
        for account_id, amount in amounts_nanos.items()
    ]
    arguments: list[Any] = [transfer_id, kind.value, idempotency_key, reference]
    arguments += [json.dumps(entries), reverses_id]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT billing_transfer(%s, %s, %s, %s, %s, %s)", arguments)
            return bool(cursor.fetchone()[0])
    except DatabaseError as error:
        known = ERRORS_BY_SQLSTATE.get(getattr(error.__cause__, "sqlstate", ""))
        if known is None:
            raise
        raise known() from error


def expire_holds() -> int:
    """Release the holds whose time is over; returns how many.

    Batch by batch, each in its own transaction, so that bookings get their turn between.
    """
    released = 0
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT billing_expire_holds(%s)", [EXPIRE_BATCH_SIZE])
            count = int(cursor.fetchone()[0])
        released += count
        # A short batch is the last, or gateways settle the same holds right now.
        if count < EXPIRE_BATCH_SIZE:
            return released
