"""What creators earned: the one place that says so.

`EARNED_SQL` has a row for each part of a prediction that somebody earned: its creator, less
royalties, and each account that gets some of them. The page of earnings, statements, the
documents of payouts and the check of the ledger all read it.

An earning belongs to the UTC day on which it was booked, as in the ledger: sums by day are
those of the reserve, to the nano-dollar.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db import connection

from marketplace.core import ids
from marketplace.models import Account

EARNED_SQL = """
SELECT u.prediction_id, u.creator_id AS earner_id, u.version_id, u.transfer_id, u.gross_nanos,
    u.creator_nanos - coalesce((
        SELECT sum(s.amount_nanos) FROM billing_royaltyshare s
        WHERE s.prediction_id = u.prediction_id), 0)::bigint AS earned_nanos
FROM billing_usageevent u WHERE u.transfer_id IS NOT NULL
UNION ALL
SELECT s.prediction_id, r.beneficiary_id, u.version_id, u.transfer_id, u.gross_nanos,
    sum(s.amount_nanos)::bigint
FROM billing_royaltyshare s
JOIN billing_royalty r ON r.id = s.royalty_id
JOIN billing_usageevent u ON u.prediction_id = s.prediction_id
GROUP BY 1, 2, 3, 4, 5
"""
# A prediction's id bears the time of its beginning, by another clock than the booking's.
BOOKED_WITHIN = timedelta(days=2)
# By what earnings can be summed.
GROUPS = {
    "day": "Day and version",
    "model": "Model",
    "version": "Version",
}
# Rows that a page shows of a sum.
ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class EarnedRow:
    """What one version earned its creator on one day; empty where summed over them."""

    day: str
    model: str
    version: int | None
    predictions: int
    gross_nanos: int
    earned_nanos: int


def sum_earnings(
    creator: Account, since: date, until: date, group: str = "day", *, limit: int | None = None
) -> list[EarnedRow]:
    """What a creator earned from one day to another, both included.

    Args:
        creator: Who earned.
        since: The first day, UTC's.
        until: The last day.
        group: One of `GROUPS`; days come newest first, others the best first.
        limit: At most so many rows.
    """
    begin = datetime.combine(since, time(), UTC)
    end = datetime.combine(until, time(), UTC) + timedelta(days=1)
    values: dict[str, Any] = {
        "creator": creator.pk,
        "begin": begin,
        "end": end,
        "first": ids.lowest_id(begin - BOOKED_WITHIN),
        "last": ids.lowest_id(end + BOOKED_WITHIN),
        "limit": limit,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SUMS[group], values)
        return [EarnedRow(*row) for row in cursor.fetchall()]


def list_months(creator: Account) -> list[date]:
    """The first days of the months since a creator's first money, newest first."""
    with connection.cursor() as cursor:
        cursor.execute(_FIRST_SQL, {"creator": creator.pk})
        (first,) = cursor.fetchone()
    if first is None:
        return []
    month, months = datetime.now(UTC).date().replace(day=1), []
    while month >= first.astimezone(UTC).date().replace(day=1):
        months.append(month)
        month = (month - timedelta(days=1)).replace(day=1)
    return months


# Its entries are in the order of their ids: the first is found without the others.
_FIRST_SQL = """
SELECT min(t.created_at) FROM billing_ledgeraccount a
CROSS JOIN LATERAL (
    SELECT e.transfer_id FROM billing_transferentry e WHERE e.ledger_account_id = a.id
    ORDER BY e.id LIMIT 1
) f
JOIN billing_transfer t ON t.id = f.transfer_id
WHERE a.holder_id = %(creator)s AND a.kind IN ('creator_reserve', 'creator_payable')
"""
_ROWS_SQL = f"""
SELECT (t.created_at AT TIME ZONE 'UTC')::date::text AS day, a.slug || '/' || m.name AS model,
    v.number AS version, e.gross_nanos, e.earned_nanos
FROM ({EARNED_SQL}) e
JOIN billing_transfer t ON t.id = e.transfer_id
JOIN marketplace_modelversion v ON v.id = e.version_id
JOIN marketplace_aimodel m ON m.id = v.model_id
JOIN marketplace_account a ON a.id = m.account_id
WHERE e.earner_id = %(creator)s AND e.prediction_id >= %(first)s AND e.prediction_id < %(last)s
    AND t.created_at >= %(begin)s AND t.created_at < %(end)s
"""  # noqa: S608 - of constants


def _sum_sql(day: str, version: str, order: str) -> str:
    return f"""
SELECT {day} AS the_day, model, {version} AS the_version, count(*), sum(gross_nanos)::bigint,
    sum(earned_nanos)::bigint
FROM ({_ROWS_SQL}) r GROUP BY 1, 2, 3 ORDER BY {order}, 2, 3 LIMIT %(limit)s
"""  # noqa: S608 - of constants


_SUMS = {
    "day": _sum_sql("day", "version", "1 DESC"),
    "model": _sum_sql("''", "NULL::integer", "6 DESC"),
    "version": _sum_sql("''", "version", "6 DESC"),
}
