"""Earnings leave the reserve a day at a time, once each, and none is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from billing.models import CreatorReserve, Release
from billing.selectors.release import list_waiting
from billing.services import release
from billing.services.release import (
    RESERVE_DAYS_MAX,
    release_creator,
    release_earnings,
    set_reserve_days,
)
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import AuditEvent, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop, balances, hold, query, settle
from tests.billing.payouts import (
    PART_NANOS,
    Fund,
    at,
    book,
    broken,
    correct,
    run_worker,
    shift_days,
    today,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


def test_a_new_creators_day_waits_fourteen_days_after_its_end(shop: Shop, fund: Fund) -> None:
    book(shop, fund, 3)

    assert release_earnings(at(14)) == 0
    assert balances()["creator_reserve"] == (3 * PART_NANOS, 0)
    assert release_earnings(at(15)) == 1

    assert balances()["creator_reserve"] == (0, 0)
    assert balances()["creator_payable"] == (3 * PART_NANOS, 0)
    row = Release.objects.get()
    assert (row.day, row.amount_nanos, row.entries) == (today(), 3 * PART_NANOS, 1)
    assert row.transfer.idempotency_key == f"release:{shop.creator.pk}:{today()}"
    assert broken() == set()


def test_an_old_creators_day_waits_seven(shop: Shop, fund: Fund) -> None:
    book(shop, fund)
    shift_days(60)
    release_earnings(at(0))
    book(shop, fund)

    assert release_earnings(at(7)) == 0
    assert release_earnings(at(8)) == 1


def test_one_day_before_sixty_a_creator_is_new(shop: Shop, fund: Fund) -> None:
    book(shop, fund)
    shift_days(51)
    book(shop, fund)

    # Eight days on, the first earning is 59 days old: noon is before or after its hour.
    moment = timezone.now() + timedelta(days=8)
    assert release_earnings(moment) == 1
    assert release_earnings(moment + timedelta(days=1)) == 1


def test_an_admin_makes_one_creator_wait_for_another_time(
    shop: Shop, fund: Fund, platform_admin: User, owner: User
) -> None:
    admin = Actor(user=platform_admin)
    book(shop, fund)
    set_reserve_days(admin, shop.creator, days=30, reason="Disputes.")

    assert release_earnings(at(30)) == 0
    assert list_waiting(shop.creator, at(0))[0].releases_on == today() + timedelta(days=31)
    assert release_earnings(at(31)) == 1

    event = AuditEvent.objects.get(action="reserve.set_days")
    assert (event.account_id, event.payload["after"]) == (shop.creator.pk, 30)
    with pytest.raises(ForbiddenError):
        set_reserve_days(Actor(user=owner), shop.creator, days=1, reason="x")
    for days in (1, RESERVE_DAYS_MAX, None):
        set_reserve_days(admin, shop.creator, days=days, reason="x")
    for days in (0, RESERVE_DAYS_MAX + 1):
        with pytest.raises(InvalidInputError):
            set_reserve_days(admin, shop.creator, days=days, reason="x")
    assert CreatorReserve.objects.get().days is None


def test_days_are_released_by_themselves_and_once(shop: Shop, fund: Fund) -> None:
    for _ in range(3):
        book(shop, fund)
        shift_days(1)

    assert [release_earnings(at(days)) for days in (11, 12, 12, 13, 14, 15)] == [0, 1, 0, 1, 1, 0]

    days = list(Release.objects.order_by("day").values_list("day", flat=True))
    assert days == [today() - timedelta(days=one) for one in (3, 2, 1)]
    assert balances()["creator_payable"] == (3 * PART_NANOS, 0)
    assert broken() == set()


def test_days_that_were_missed_are_released_together(shop: Shop, fund: Fund) -> None:
    for _ in range(3):
        book(shop, fund)
        shift_days(1)

    assert release_earnings(at(40)) == 3
    assert broken() == set()


def test_what_comes_back_counts_on_its_own_day_and_may_be_below_zero(
    shop: Shop, fund: Fund
) -> None:
    book(shop, fund)
    shift_days(2)
    correct(shop, -PART_NANOS)
    shift_days(1)
    book(shop, fund)
    correct(shop, -PART_NANOS)

    assert release_earnings(at(30)) == 3

    found = list(Release.objects.order_by("day").values_list("amount_nanos", "transfer__kind"))
    # The third day cancels out: it is released, and nothing moves.
    assert found == [(PART_NANOS, "release"), (-PART_NANOS, "release"), (0, None)]
    assert balances()["creator_payable"] == (0, 0)
    assert broken() == set()


def hold_open(work: Callable[[], Any]) -> tuple[threading.Thread, threading.Event]:
    """Do work in a transaction that stays open until the event is set."""
    begun, may_end = threading.Event(), threading.Event()

    def run() -> None:
        try:
            with transaction.atomic():
                work()
                begun.set()
                assert may_end.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    return thread, may_end


def release_beside_an_open_booking(shop: Shop, fund: Fund, now: datetime) -> None:
    """A booking took its time and its place, and commits only while the day is released."""
    book(shop, fund)
    late = hold(shop)
    thread, may_end = hold_open(lambda: settle(shop.item(late)))
    timer = threading.Timer(0.5, may_end.set)
    timer.start()
    try:
        release_earnings(now)
    finally:
        may_end.set()
        timer.join()
        thread.join()
    release_earnings(now)
    release_earnings(now + timedelta(days=1))


def test_a_booking_that_commits_late_is_not_left_behind(shop: Shop, fund: Fund) -> None:
    release_beside_an_open_booking(shop, fund, at(15))

    assert Release.objects.get().amount_nanos == 2 * PART_NANOS
    assert balances()["creator_reserve"] == (0, 0)
    assert broken() == set()


def test_control_without_waiting_for_bookings_one_is_left_behind(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "wait_for_bookings", lambda _account_id: None)

    release_beside_an_open_booking(shop, fund, at(15))

    assert Release.objects.get().amount_nanos == PART_NANOS
    assert "releases-equal-days" in broken()


def test_a_booking_that_hangs_holds_up_its_creator_only(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "LOCK_TIMEOUT_S", 1)
    book(shop, fund)
    late = hold(shop)
    thread, may_end = hold_open(lambda: settle(shop.item(late)))
    try:
        assert release_earnings(at(15)) == 0
    finally:
        may_end.set()
        thread.join()

    assert release_earnings(at(15)) == 1
    assert Release.objects.get().amount_nanos == 2 * PART_NANOS


def test_workers_that_release_at_once_release_once(shop: Shop, fund: Fund) -> None:
    for _ in range(3):
        book(shop, fund)
        shift_days(1)
    counts: list[int] = []

    def run() -> None:
        try:
            counts.append(release_creator(shop.creator.pk, at(40)))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(counts) == [0, 0, 0, 3]
    assert balances()["creator_payable"] == (3 * PART_NANOS, 0)
    assert broken() == set()


def test_a_death_in_the_middle_releases_nothing(
    shop: Shop, fund: Fund, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        book(shop, fund)
        shift_days(1)
    monkeypatch.setattr(release, "_find_mark", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release_creator(shop.creator.pk, at(40))
    monkeypatch.undo()
    assert not Release.objects.exists()
    assert "creator_payable" not in balances() or balances()["creator_payable"] == (0, 0)

    assert release_earnings(at(40)) == 2
    assert broken() == set()


def test_a_clock_that_was_put_back_hides_no_entry(shop: Shop, fund: Fund) -> None:
    """An entry of the earlier day was written behind one of the later day."""
    book(shop, fund)
    shift_days(2)
    book(shop, fund)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER USER")
        cursor.execute(
            """UPDATE billing_transfer SET created_at = created_at + interval '1 day'
               WHERE kind = 'usage' AND created_at < now() - interval '1 day'"""
        )
        cursor.execute(
            """UPDATE billing_transfer SET created_at = created_at - interval '2 days'
               WHERE kind = 'usage' AND created_at > now() - interval '1 hour'"""
        )
        cursor.execute("ALTER TABLE billing_transfer ENABLE TRIGGER USER")

    assert [release_earnings(at(days)) for days in (13, 14)] == [1, 1]
    assert balances()["creator_reserve"] == (0, 0)
    assert broken() == set()


def test_the_page_knows_what_waits(shop: Shop, fund: Fund) -> None:
    book(shop, fund)
    shift_days(1)
    book(shop, fund)
    assert [one.amount_nanos for one in list_waiting(shop.creator, at(0))] == [PART_NANOS] * 2
    release_earnings(at(14))

    (left,) = list_waiting(shop.creator, at(14))
    assert (left.day, left.releases_on) == (today(), today() + timedelta(days=15))


def test_the_database_refuses_to_change_a_release(shop: Shop, fund: Fund) -> None:
    book(shop, fund)
    release_earnings(at(15))
    for change in ("DELETE FROM billing_release", "UPDATE billing_release SET amount_nanos = 1"):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            query(change + " RETURNING 1")


def test_a_worker_has_the_rights_for_it(shop: Shop, fund: Fund, database_urls) -> None:
    """As the role of the workers, which may not write the ledger's tables."""
    book(shop, fund)

    run_worker("release", database_urls["app"])

    assert Release.objects.get().amount_nanos == PART_NANOS
    assert broken() == set()


def test_only_workers_lock_accounts(shop: Shop, database_urls) -> None:
    """Whoever may lock could hold up all bookings: the gateway may not."""
    for role, is_allowed in (("app", True), ("gateway", False), ("keybroker", False)):
        with psycopg.connect(database_urls[role]) as connected:
            lock = "SELECT billing_lock(ARRAY[%s]::uuid[])"
            if is_allowed:
                assert connected.execute(lock, [shop.wallet_id]).fetchone() == (1,)
                continue
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connected.execute(lock, [shop.wallet_id])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_release SET entries = 1",
        "DELETE FROM billing_release",
        "DELETE FROM billing_payoutitem",
        "DELETE FROM billing_payoutreversal",
        "UPDATE billing_payoutrun SET payday = NULL",
        "UPDATE billing_transferentry SET amount_nanos = 1",
    ],
)
def test_workers_have_no_right_to_rewrite(shop: Shop, database_urls, change: str) -> None:
    with (
        psycopg.connect(database_urls["app"]) as connected,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connected.execute(change)
