"""Our balance at Stripe, and every movement on it. Amounts in cents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import stripe

from billing.stripe.calls import (
    CURRENCY,
    PAGE_SIZE,
    Calls,
    at,
    id_of,
    our_errors,
    period,
    read_all,
    read_latest,
)
from billing.stripe.events import StripeEvent, read_event


@dataclass(frozen=True, slots=True)
class BalanceTransaction:
    """One movement on the balance at Stripe; amounts are signed."""

    id: str
    type: str
    amount: int
    fee: int
    net: int
    currency: str
    source: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """What can be spent, and what is still on its way; either can be negative."""

    available_cents: int
    pending_cents: int


class BalanceCalls(Calls):
    """What happened to our money, by Stripe's books."""

    def retrieve_balance(self) -> Balance:
        """The balance in our currency."""
        with our_errors():
            found = self._v1.balance.retrieve()
        return Balance(_total(found.available), _total(found.pending))

    def retrieve_balance_transaction(self, transaction_id: str) -> BalanceTransaction:
        """One movement."""
        with our_errors():
            return _balance_transaction(self._v1.balance_transactions.retrieve(transaction_id))

    def list_balance_transactions(
        self, *, created_from: datetime, created_until: datetime
    ) -> list[BalanceTransaction]:
        """Every movement of a period, newest first; the end is not part of it.

        Raises:
            StripeRefusedError: More than `LIST_SIZE_MAX`; ask for a shorter period.
        """
        with our_errors():
            rows = self._v1.balance_transactions.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_balance_transaction(row) for row in read_all(rows)]

    def list_undelivered_events(
        self, *, types: Sequence[str], created_from: datetime
    ) -> list[StripeEvent]:
        """Events that we have not acknowledged, newest first, at most `LIST_SIZE_MAX`.

        Args:
            types: At most 20 types, which is Stripe's limit.
            created_from: Not older than 30 days; Stripe forgets older ones.
        """
        with our_errors():
            rows = self._v1.events.list(
                params={
                    "delivery_success": False,
                    "types": list(types),
                    "created": period(created_from, None),
                    "limit": PAGE_SIZE,
                }
            )
            found = list(read_latest(rows))
        return [read_event(row.to_dict()) for row in found]


def _total(amounts: Sequence[stripe.Balance.Available | stripe.Balance.Pending]) -> int:
    return sum(item.amount for item in amounts if item.currency == CURRENCY)


def _balance_transaction(row: stripe.BalanceTransaction) -> BalanceTransaction:
    return BalanceTransaction(
        id=row.id,
        type=row.type,
        amount=row.amount,
        fee=row.fee,
        net=row.net,
        currency=row.currency,
        source=id_of(row.source),
        created_at=at(row.created),
    )
