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

# As many types as Stripe takes in one question for events.
EVENT_TYPES_MAX = 20


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
        """Events that we have not acknowledged, newest first.

        Stripe is asked for `EVENT_TYPES_MAX` types at a time, and at most `LIST_SIZE_MAX` events
        of each such group are read.

        Args:
            types: Of snapshot events; thin ones are not in this list of Stripe's and are left
                out.
            created_from: Not older than 30 days; Stripe forgets older ones.
        """
        wanted = [name for name in types if not name.startswith("v2.")]
        found: list[StripeEvent] = []
        with our_errors():
            for start in range(0, len(wanted), EVENT_TYPES_MAX):
                rows = self._v1.events.list(
                    params={
                        "delivery_success": False,
                        "types": wanted[start : start + EVENT_TYPES_MAX],
                        "created": period(created_from, None),
                        "limit": PAGE_SIZE,
                    }
                )
                found += [read_event(row.to_dict()) for row in read_latest(rows)]
        return sorted(found, key=lambda event: event.created, reverse=True)


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
