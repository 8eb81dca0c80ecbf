"""Read what waits in the reserve, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from billing.models import CreatorReserve, LedgerAccount, TransferEntry
from billing.selectors.ledger import find_ledger_account
from marketplace.models import Account

# As long as a creator is new, who pays for predictions may turn out to be the creator.
NEW_CREATOR_DAYS = 60


@dataclass(frozen=True, slots=True)
class WaitingDay:
    """What one day left in the reserve, and the day on which it becomes payable."""

    day: date
    amount_nanos: int
    releases_on: date


def find_reserve_days(reserve: LedgerAccount, now: datetime) -> int:
    """How many days earnings of the reserve's holder wait, as of now."""
    row = CreatorReserve.objects.filter(pk=reserve.holder_id).first()
    if row is not None and row.days is not None:
        return row.days
    first = (
        TransferEntry.objects.filter(ledger_account=reserve)
        .order_by("id")
        .values_list("transfer__created_at", flat=True)
        .first()
    )
    is_new = first is None or now - first < timedelta(days=NEW_CREATOR_DAYS)
    return settings.RESERVE_DAYS_NEW if is_new else settings.RESERVE_DAYS


def last_day_to_release(reserve: LedgerAccount, now: datetime) -> date:
    """The latest day of which even the last moment has waited long enough."""
    return now.astimezone(UTC).date() - timedelta(days=find_reserve_days(reserve, now) + 1)


def list_waiting(creator: Account, now: datetime) -> list[WaitingDay]:
    """What is in a creator's reserve, by day, the first to be released first."""
    reserve = find_ledger_account(LedgerAccount.Kind.CREATOR_RESERVE, holder_id=creator.pk)
    if reserve is None:
        return []
    row = CreatorReserve.objects.filter(pk=creator.pk).first()
    values: dict[str, Any] = {
        "account": reserve.pk,
        "mark": row.read_until_entry if row else 0,
        "after": row.released_until if row and row.released_until else date(1970, 1, 1),
    }
    days = find_reserve_days(reserve, now)
    with connection.cursor() as cursor:
        cursor.execute(_WAITING_SQL, values)
        return [
            WaitingDay(day, nanos, day + timedelta(days=days + 1))
            for day, nanos in cursor.fetchall()
        ]


_WAITING_SQL = """
SELECT day, sum(amount_nanos)::bigint FROM (
    SELECT (t.created_at AT TIME ZONE 'UTC')::date AS day, e.amount_nanos
    FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
    WHERE e.ledger_account_id = %(account)s AND e.id > %(mark)s AND t.kind <> 'release'
) d WHERE day > %(after)s GROUP BY day ORDER BY day
"""
