"""Let earnings out of the reserve, a day at a time, once each.

A day is complete when it is over and nobody can add to it any more. Whoever writes an entry
locks its ledger account first, takes the time afterwards and keeps the lock until the commit.
So who gets that lock, be it for a moment, knows that whatever was booked before is visible,
and that whatever comes later bears a later time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.utils import timezone

from billing.models import CreatorReserve, LedgerAccount, Release, Transfer
from billing.selectors.ledger import find_ledger_account
from billing.selectors.release import last_day_to_release
from billing.services import ledger
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

logger = logging.getLogger(__name__)

# A booking takes milliseconds; what holds its lock for longer is not waited for this time.
LOCK_TIMEOUT_S = 20
# The longest that a creator can be made to wait: card disputes come within four months.
RESERVE_DAYS_MAX = 180


@dataclass(frozen=True, slots=True)
class _Day:
    day: date
    amount_nanos: int
    entries: int


def release_earnings(now: datetime | None = None) -> int:
    """Release every day of every creator that has waited long enough; returns how many."""
    moment = now or timezone.now()
    creators = LedgerAccount.objects.filter(
        kind=LedgerAccount.Kind.CREATOR_RESERVE, holder__isnull=False
    ).order_by("holder_id")
    count = 0
    for creator_id in creators.values_list("holder_id", flat=True):
        assert creator_id is not None, "filtered"
        try:
            count += release_creator(creator_id, moment)
        except OperationalError as error:
            # Somebody keeps the account locked; the next run finds it.
            logger.warning("earnings of %s are not released now: %s", creator_id, error)
    return count


def release_creator(creator_id: UUID, now: datetime) -> int:
    """Release one creator's days; returns how many. Safe to run twice, also at once."""
    reserve = find_ledger_account(LedgerAccount.Kind.CREATOR_RESERVE, holder_id=creator_id)
    if reserve is None:
        return 0
    CreatorReserve.objects.get_or_create(creator_id=creator_id)
    until = last_day_to_release(reserve, now)
    row = CreatorReserve.objects.get(pk=creator_id)
    if row.released_until is not None and until <= row.released_until:
        return 0
    wait_for_bookings(reserve.pk)
    with transaction.atomic():
        row = CreatorReserve.objects.select_for_update().get(pk=creator_id)
        if row.released_until is not None and until <= row.released_until:
            return 0
        days = _sum_days(reserve.pk, row, until)
        for day in days:
            _release_day(creator_id, reserve.pk, day)
        row.read_until_entry = _find_mark(reserve.pk, row, until)
        row.released_until = until
        row.save(update_fields=["released_until", "read_until_entry"])
    return len(days)


def set_reserve_days(actor: Actor, creator: Account, *, days: int | None, reason: str) -> None:
    """Make one creator wait for another time than the settings say; None: as they say.

    Raises:
        InvalidInputError: Not from one day to `RESERVE_DAYS_MAX`.
        ForbiddenError: The actor is no admin of the platform.
    """
    if not actor.is_admin:
        raise ForbiddenError("Only an admin of the platform can do this.")
    if days is not None and not 1 <= days <= RESERVE_DAYS_MAX:
        detail = f"A reserve lasts 1 to {RESERVE_DAYS_MAX} days."
        raise InvalidInputError(errors=[{"pointer": "/days", "detail": detail}])
    with transaction.atomic():
        row, _ = CreatorReserve.objects.get_or_create(creator=creator)
        row = CreatorReserve.objects.select_for_update().get(pk=row.pk)
        before, row.days = row.days, days
        row.save(update_fields=["days"])
        audit.record(
            actor.label,
            "reserve.set_days",
            row,
            account_id=creator.pk,
            payload={"before": before, "after": days, "reason": reason},
        )


def wait_for_bookings(ledger_account_id: UUID) -> None:
    """Until every booking that began before is over; the lock is let go at once."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        ledger.lock_accounts([ledger_account_id])


_DAYS_SQL = """
SELECT day, sum(amount_nanos)::bigint, count(*) FROM (
    SELECT (t.created_at AT TIME ZONE 'UTC')::date AS day, e.amount_nanos
    FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
    WHERE e.ledger_account_id = %(account)s AND e.id > %(mark)s AND t.kind <> 'release'
) d
WHERE day <= %(until)s AND day > %(after)s GROUP BY day ORDER BY day
"""
# The first entry of a later day; clocks that were put back do not hide an earlier one.
_MARK_SQL = """
SELECT coalesce(
    (SELECT min(e.id) - 1 FROM billing_transferentry e
     JOIN billing_transfer t ON t.id = e.transfer_id
     WHERE e.ledger_account_id = %(account)s AND e.id > %(mark)s AND t.kind <> 'release'
        AND (t.created_at AT TIME ZONE 'UTC')::date > %(until)s),
    (SELECT max(e.id) FROM billing_transferentry e WHERE e.ledger_account_id = %(account)s), 0)
"""


def _sum_days(reserve_id: UUID, row: CreatorReserve, until: date) -> list[_Day]:
    with connection.cursor() as cursor:
        cursor.execute(_DAYS_SQL, _values(reserve_id, row, until))
        return [_Day(*found) for found in cursor.fetchall()]


def _find_mark(reserve_id: UUID, row: CreatorReserve, until: date) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_MARK_SQL, _values(reserve_id, row, until))
        return int(cursor.fetchone()[0])


def _values(reserve_id: UUID, row: CreatorReserve, until: date) -> dict[str, Any]:
    after = row.released_until or date(1970, 1, 1)
    return {
        "account": reserve_id,
        "mark": row.read_until_entry,
        "until": until,
        "after": after,
    }


def _release_day(creator_id: UUID, reserve_id: UUID, day: _Day) -> None:
    transfer_id = new_id() if day.amount_nanos else None
    if transfer_id is not None:
        payable_id = ledger.get_ledger_account_id(
            LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=creator_id
        )
        ledger.post_transfer(
            transfer_id=transfer_id,
            kind=Transfer.Kind.RELEASE,
            idempotency_key=f"release:{creator_id}:{day.day}",
            amounts_nanos={reserve_id: -day.amount_nanos, payable_id: day.amount_nanos},
            reference=day.day.isoformat(),
        )
    Release.objects.create(
        creator_id=creator_id,
        day=day.day,
        amount_nanos=day.amount_nanos,
        entries=day.entries,
        transfer_id=transfer_id,
    )
