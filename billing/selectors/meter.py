"""Read what was metered for accounts that pay later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet, Sum

from billing.models import MeterReport
from marketplace.models import Account

HOUR = timedelta(hours=1)

# Usage that is paid later, and what was given back of it, in no report yet, by the transfers that
# moved it. Only transactions below the barrier are read, which are all over: asked twice, it
# answers the same. What is visible and has a number that is not given out yet is of a database
# that was restored.
_IN_WINDOW = """((x.xid >= %(mark)s::text::xid8 AND x.xid < %(barrier)s::text::xid8)
        OR x.xid >= pg_snapshot_xmax(pg_current_snapshot()))"""
_UNREPORTED = f"""
FROM (
    SELECT x.xid, x.transfer_id, x.gross_nanos AS used, 0 AS reversed, 1 AS predictions
    FROM billing_usageevent x WHERE {_IN_WINDOW} AND x.gross_nanos > 0
    UNION ALL
    SELECT x.xid, x.transfer_id, 0, x.gross_nanos, 0
    FROM billing_usagereversal x WHERE {_IN_WINDOW}
) u
JOIN billing_transfer t ON t.id = u.transfer_id
JOIN billing_transferentry e ON e.transfer_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id AND a.kind = 'receivable'
WHERE NOT EXISTS (SELECT 1 FROM billing_meteredtransfer m WHERE m.transfer_id = t.id)
"""  # noqa: S608 - of constants
_LIST = f"""
SELECT t.id, a.holder_id, t.created_at, sum(u.used)::bigint, sum(u.predictions)::bigint,
    sum(u.reversed)::bigint
{_UNREPORTED} AND t.created_at < %(until)s
GROUP BY t.id, a.holder_id, t.created_at ORDER BY t.created_at, t.id
"""
_FIRST = f"""
SELECT min(u.xid)::text::bigint {_UNREPORTED} AND t.created_at >= %(until)s
"""


@dataclass(frozen=True, slots=True)
class Window:
    """Bookings of the transactions from `mark` on and below `barrier`, stamped before `until`."""

    mark: int
    barrier: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Unreported:
    """A transfer that no report holds: of usage, or of what goes back."""

    transfer_id: UUID
    account_id: UUID
    booked_at: datetime
    nanos: int
    predictions: int
    # Of a prediction that was given back.
    reversed_nanos: int = 0
    # Carried credit that goes to the wallet.
    returned_nanos: int = 0


def read_clock() -> datetime:
    """The time of the database, which alone decides what hour something belongs to."""
    return datetime.fromisoformat(_fetch_one("SELECT clock_timestamp()::text"))


def read_next_transaction() -> int:
    """A new number: all transactions that have written by now have a lower one.

    Not what a snapshot says, which knows only of transactions that are over.
    """
    return int(_fetch_one("SELECT pg_current_xact_id()::text::bigint"))


def read_oldest_transaction() -> int:
    """All transactions with a lower number are over."""
    return int(_fetch_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))


def list_unreported(window: Window) -> list[Unreported]:
    """What was booked before its end and is in no report, in the order of booking."""
    with connection.cursor() as cursor:
        cursor.execute(_LIST, asdict(window))
        return [Unreported(*row) for row in cursor.fetchall()]


def find_next_mark(window: Window) -> int:
    """The first transaction from which on something is left to report."""
    with connection.cursor() as cursor:
        cursor.execute(_FIRST, asdict(window))
        (first,) = cursor.fetchone()
    return window.barrier if first is None else min(int(first), window.barrier)


def find_last_report(account_id: UUID) -> MeterReport | None:
    """The report that has an account's sums so far; None before its first."""
    return MeterReport.objects.filter(account_id=account_id).order_by("number").last()


def find_carried_nanos(account_id: UUID) -> int:
    """What was given back to an account and no usage has made up for."""
    last = find_last_report(account_id)
    return 0 if last is None else last.credit_nanos


def list_reports(account: Account) -> QuerySet[MeterReport]:
    """An account's reports, newest first."""
    return MeterReport.objects.filter(account=account).order_by("-hour", "-seq")


def list_reports_of(
    account_id: UUID,
    start: datetime,
    end: datetime,
    states: Sequence[str] = (MeterReport.State.OK,),
) -> QuerySet[MeterReport]:
    """Reports that Stripe counts into a period, whose end is no part of it, in their order."""
    return MeterReport.objects.filter(
        account_id=account_id, counted_at__gte=start, counted_at__lt=end, state__in=states
    ).order_by("number")


def sum_micro(reports: QuerySet[MeterReport]) -> int:
    """What reports come to, in millionths of a dollar."""
    return reports.aggregate(sum=Sum("value_micro"))["sum"] or 0


def _fetch_one(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]
