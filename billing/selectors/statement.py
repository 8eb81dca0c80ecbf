"""A creator's month: what was there, what came, what went, what is left.

All amounts are of the creator's three ledger accounts together (reserve, payable, on its way):
what moves between them is no line. The lines add up to the nano-dollar, or there is no
statement.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db import connection, transaction

from billing.errors import StatementDiffersError
from billing.models import Transfer
from billing.selectors.earnings import EarnedRow, sum_earnings
from marketplace.core.errors import NotFoundError
from marketplace.models import Account

logger = logging.getLogger(__name__)

_KINDS = ("creator_reserve", "creator_payable", "payout_in_flight")


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that came or went otherwise than by a prediction."""

    at: datetime
    kind: str
    label: str
    reference: str
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One month of one creator; balances by kind of ledger account, and in all."""

    creator: Account
    month: date
    opening: dict[str, int]
    closing: dict[str, int]
    earned: list[EarnedRow]
    movements: list[Movement]

    @property
    def opening_nanos(self) -> int:
        """What was there at the first moment of the month."""
        return sum(self.opening.values())

    @property
    def closing_nanos(self) -> int:
        """What was there at the last."""
        return sum(self.closing.values())

    @property
    def earned_nanos(self) -> int:
        """What predictions added."""
        return sum(row.earned_nanos for row in self.earned)

    @property
    def moved_nanos(self) -> int:
        """What all else added, below zero where it took."""
        return sum(one.amount_nanos for one in self.movements)


def make_statement(creator: Account, month: date) -> Statement:
    """The statement of a month, of the current one so far.

    Raises:
        NotFoundError: The month has not begun.
        StatementDiffersError: The ledger and the predictions do not tell the same.
    """
    first = month.replace(day=1)
    begin = datetime.combine(first, time(), UTC)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    if begin > datetime.now(UTC):
        raise NotFoundError("This month has not begun.")
    values = {"creator": creator.pk, "begin": begin, "end": end}
    with _one_snapshot():
        opening, closing = _sum_balances(values)
        earned = sum_earnings(creator, first, last)
        movements = _list_movements(values)
    statement = Statement(
        creator=creator,
        month=first,
        opening=opening,
        closing=closing,
        # Oldest first, as one reads a statement.
        earned=sorted(earned, key=lambda row: (row.day, row.model, row.version)),
        movements=movements,
    )
    _check(statement)
    return statement


@contextmanager
def _one_snapshot() -> Iterator[None]:
    """What is booked meanwhile is in none of the parts."""
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def _check(statement: Statement) -> None:
    expected = statement.opening_nanos + statement.earned_nanos + statement.moved_nanos
    if expected != statement.closing_nanos:
        difference = statement.closing_nanos - expected
        logger.critical(
            "statement of %s for %s is off by %s nanos",
            *(statement.creator.slug, statement.month, difference),
        )
        raise StatementDiffersError


def _sum_balances(values: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    opening, closing = dict.fromkeys(_KINDS, 0), dict.fromkeys(_KINDS, 0)
    with connection.cursor() as cursor:
        cursor.execute(_BALANCES_SQL, {**values, "kinds": list(_KINDS)})
        for kind, before, after in cursor.fetchall():
            opening[kind], closing[kind] = before, after
    return opening, closing


def _list_movements(values: dict[str, Any]) -> list[Movement]:
    with connection.cursor() as cursor:
        cursor.execute(_MOVEMENTS_SQL, {**values, "kinds": list(_KINDS)})
        return [
            Movement(at, kind, Transfer.Kind(kind).label, reference, nanos)
            for at, kind, reference, nanos in cursor.fetchall()
        ]


_BALANCES_SQL = """
SELECT a.kind,
    coalesce(sum(e.amount_nanos) FILTER (WHERE t.created_at < %(begin)s), 0)::bigint,
    coalesce(sum(e.amount_nanos) FILTER (WHERE t.created_at < %(end)s), 0)::bigint
FROM billing_ledgeraccount a
JOIN billing_transferentry e ON e.ledger_account_id = a.id
JOIN billing_transfer t ON t.id = e.transfer_id
WHERE a.holder_id = %(creator)s AND a.kind = ANY (%(kinds)s) GROUP BY 1
"""
_MOVEMENTS_SQL = """
SELECT t.created_at, t.kind, t.reference, sum(e.amount_nanos)::bigint
FROM billing_ledgeraccount a
JOIN billing_transferentry e ON e.ledger_account_id = a.id
JOIN billing_transfer t ON t.id = e.transfer_id
WHERE a.holder_id = %(creator)s AND a.kind = ANY (%(kinds)s) AND t.kind <> 'usage'
    AND t.created_at >= %(begin)s AND t.created_at < %(end)s
GROUP BY t.id, t.created_at, t.kind, t.reference HAVING sum(e.amount_nanos) <> 0
ORDER BY t.created_at, t.id
"""
