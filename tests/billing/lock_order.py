"""Watches that nobody who moves money can wait in a circle for somebody else who does.

Every function of the ledger locks its accounts in one order. Two of them after each other in
one transaction do not, unless the first lock was of the accounts of both: whoever asks for one
more account afterwards may hold what somebody else waits for, who holds that one.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.transaction import Atomic

from billing.models import LedgerAccount
from billing.services import ledger, postpaid


class LockedLateError(AssertionError):
    """A transaction that held accounts of the ledger asked for one more."""


@contextmanager
def watching() -> Iterator[None]:
    """Have each transaction of this process fail that locks in two steps."""
    locked_by_block: dict[object, set[UUID]] = defaultdict(set)

    def note(wanted: Iterable[UUID]) -> None:
        block = _find_block()
        if block is None:
            return
        locked = locked_by_block[block]
        late = set(wanted) - locked if locked else set()
        if late:
            kinds = LedgerAccount.objects.filter(pk__in=late).values_list("kind", flat=True)
            raise LockedLateError(f"locked late: {sorted(kinds)}")
        locked.update(wanted)

    def wrap(function: Callable[..., Any], accounts: Callable[..., Iterable[UUID]]) -> Any:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            note(accounts(*args, **kwargs))
            return function(*args, **kwargs)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "post_transfer", wrap(ledger.post_transfer, _of_transfer))
        patch.setattr(ledger, "lock_accounts", wrap(ledger.lock_accounts, list))
        patch.setattr(postpaid, "set_credit", wrap(postpaid.set_credit, _of_credit))
        yield


def _find_block() -> object | None:
    """The outermost block of the code, not of the test; None: each statement is its own."""
    own = (one for one in connection.atomic_blocks if not one._from_testcase)
    return next(own, None)


def _of_transfer(*, amounts_nanos: dict[UUID, int], **_: object) -> Iterable[UUID]:
    return list(amounts_nanos)


def _of_credit(account_id: UUID, _limit_nanos: int | None) -> Iterable[UUID]:
    kinds = (LedgerAccount.Kind.WALLET, LedgerAccount.Kind.RECEIVABLE)
    rows = LedgerAccount.objects.filter(holder_id=account_id, kind__in=kinds)
    return list(rows.values_list("pk", flat=True))


def whole_history() -> Atomic:
    """A block around all that a machine does, which is a test's and not the code's."""
    block = transaction.atomic()
    block._from_testcase = True
    return block
