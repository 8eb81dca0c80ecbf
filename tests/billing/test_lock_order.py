"""Two who move money at once never wait for each other: see `lock_order`."""

from __future__ import annotations

import pytest
from django.db import transaction

from billing.models import LedgerAccount, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from tests.billing.lock_order import LockedLateError


def move(from_kind: LedgerAccount.Kind, to_kind: LedgerAccount.Kind) -> None:
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.ADJUSTMENT,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={
            ledger.get_ledger_account_id(from_kind): -1,
            ledger.get_ledger_account_id(to_kind): 1,
        },
    )


KINDS = LedgerAccount.Kind


def move_twice() -> None:
    with transaction.atomic():
        move(KINDS.GOODWILL, KINDS.ROUNDING)
        move(KINDS.STRIPE_CLEARING, KINDS.ROUNDING)


@pytest.mark.django_db(transaction=True)
def test_one_transfer_after_another_is_noticed() -> None:
    """The control of all tests of money."""
    with pytest.raises(LockedLateError, match="stripe_clearing"):
        move_twice()


@pytest.mark.django_db
def test_one_after_another_is_noticed_in_the_transaction_of_a_test() -> None:
    with pytest.raises(LockedLateError, match="stripe_clearing"):
        move_twice()


@pytest.mark.django_db
def test_transfers_of_their_own_transactions_and_of_locked_accounts_may_follow() -> None:
    move(KINDS.GOODWILL, KINDS.ROUNDING)
    move(KINDS.STRIPE_CLEARING, KINDS.ROUNDING)
    kinds = (KINDS.GOODWILL, KINDS.STRIPE_CLEARING, KINDS.ROUNDING)
    with transaction.atomic():
        ledger.lock_accounts([ledger.get_ledger_account_id(kind) for kind in kinds])
        move(KINDS.GOODWILL, KINDS.ROUNDING)
        move(KINDS.STRIPE_CLEARING, KINDS.ROUNDING)
