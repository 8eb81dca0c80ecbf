"""What is used on credit is reported once, to the nano-dollar, whatever is lost on the way."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections, transaction

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import MeteredTransfer, MeterReport, MeterSeal, UsageEvent
from billing.selectors import meter as selectors
from billing.selectors.meter import HOUR, read_clock
from billing.services import meter
from billing.services.meter import seal_hours, send_reports
from marketplace.core.ids import new_id
from tests.billing.conftest import PRICE_NANOS, Shop, hold, query, settle
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import (
    age,
    agree,
    begin_earlier,
    broken,
    buy,
    reopen_last_hour,
    this_hour,
)
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.django_db(transaction=True)

NOW = timedelta(0)


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def credit(shop: Shop, stripe: MeteredStripe, platform_admin: Any) -> Shop:
    """The consumer has had credit for six hours."""
    begin_earlier(agree(shop, platform_admin), stripe, 6)
    return shop


def used_nanos() -> int:
    return sum(UsageEvent.objects.values_list("gross_nanos", flat=True))


def counted(stripe: MeteredStripe) -> int:
    return sum(value for _, _, value in stripe.events.values())


def reported() -> list[tuple[int, int, int, int]]:
    rows = MeterReport.objects.order_by("total_nanos")
    return list(rows.values_list("usage_nanos", "value_micro", "residual_nanos", "seq"))


def check_books(stripe: MeteredStripe) -> None:
    """All that was used is reported, and what is less than a millionth is carried."""
    assert counted(stripe) == used_nanos() // 1_000
    assert broken() == set()


# --- Sealing ---


def test_an_hour_is_reported_once_and_under_its_own_name(credit, stripe):
    buy(credit, 3)
    buy(credit, 2)
    age(1)

    assert seal_hours(wait=NOW) == 6
    assert seal_hours(wait=NOW) == 0
    assert send_reports() == 1
    assert send_reports() == 0

    report = MeterReport.objects.get()
    hour = this_hour() - HOUR
    assert (report.hour, report.seq, report.predictions) == (hour, 1, 5)
    assert (report.usage_nanos, report.value_micro, report.residual_nanos) == (5_005, 5, 5)
    assert report.identifier == f"pd:mtr_test:cus_00000000000001:{hour:%Y%m%d%H}:1"
    assert stripe.events == {
        report.identifier: ("cus_00000000000001", hour + timedelta(minutes=59, seconds=59), 5)
    }
    check_books(stripe)


def test_this_hour_is_not_over(credit, stripe):
    buy(credit)

    seal_hours(wait=NOW)

    assert not MeterReport.objects.exists()


def test_an_hour_waits_five_minutes(credit, stripe, monkeypatch):
    clock = this_hour() + timedelta(minutes=4, seconds=59)
    monkeypatch.setattr(meter, "read_clock", lambda: clock)
    assert seal_hours() == 5
    clock += timedelta(seconds=1)
    assert seal_hours() == 1


def test_residuals_are_carried_and_nothing_is_lost(credit, stripe):
    rand = random.Random(7)
    for _ in range(5):
        # Of odd amounts: none is a whole millionth.
        buy(credit, rand.randint(1, 9))
        age(1)

    seal_hours(wait=NOW)
    send_reports()

    rows = reported()
    assert len(rows) == 5
    assert sum(usage for usage, *_ in rows) == used_nanos()
    assert sum(value for _, value, *_ in rows) * 1_000 + rows[-1][2] == used_nanos()
    check_books(stripe)


def test_rounding_each_report_by_itself_is_noticed(credit, stripe, monkeypatch):
    """The control: a value that is rounded down by itself loses its rest."""

    def write(account_id: Any, hour: Any, transfers: Any) -> None:
        usage = sum(one.nanos for one in transfers)
        report = MeterReport.objects.create(
            account_id=account_id,
            hour=hour,
            seq=1,
            number=1 + MeterReport.objects.count(),
            counted_at=hour,
            usage_nanos=usage,
            total_nanos=usage * (1 + MeterReport.objects.count()),
            value_micro=usage // 1_000,
            residual_nanos=usage * (1 + MeterReport.objects.count()) % 1_000,
            predictions=1,
            identifier=str(hour),
        )
        MeteredTransfer.objects.bulk_create(
            MeteredTransfer(transfer_id=one.transfer_id, report=report) for one in transfers
        )

    monkeypatch.setattr(meter, "_write_report", write)
    for hours in (3, 2):
        # 600 * 1,001: the rests of two make a whole millionth.
        buy(credit, 600)
        age(hours)

    seal_hours(wait=NOW)
    send_reports()

    assert counted(stripe) == used_nanos() // 1_000 - 1
    assert broken() == {"reports-equal-usage"}


def test_less_than_a_millionth_is_not_sent_but_carried(credit, stripe, monkeypatch):
    for hours in (3, 2):
        make_cheap(credit, 600)
        age(hours)

    seal_hours(wait=NOW)

    assert [report[1:] for report in reported()] == [(0, 600, 1), (1, 200, 1)]
    assert set(MeterReport.objects.values_list("state", flat=True)) == {"nothing", "new"}
    assert send_reports() == 1
    check_books(stripe)


def make_cheap(shop: Shop, nanos: int) -> None:
    """A prediction that costs so little."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_price DISABLE TRIGGER USER")
        cursor.execute("UPDATE billing_price SET nanos_per_prediction = %s", [nanos])
        cursor.execute("ALTER TABLE billing_price ENABLE TRIGGER USER")
    prediction_id = hold(shop, nanos)
    assert settle(shop.item(prediction_id, gross_nanos=nanos)) == ["settled"]


def test_usage_that_was_paid_before_is_not_reported(credit, fund, stripe):
    from billing.services.postpaid import set_credit

    fund(5 * PRICE_NANOS)
    buy(credit)
    set_credit(credit.consumer.pk, None)
    buy(credit, 2)
    age(1)

    seal_hours(wait=NOW)

    assert [usage for usage, *_ in reported()] == [PRICE_NANOS]
    assert broken() == set()


@contextmanager
def in_another_transaction() -> Iterator[Any]:
    """What is run with it is written by a transaction that stays open to the end of the block."""
    ready, go = threading.Event(), threading.Event()
    work: list[Any] = []
    failures: list[DatabaseError] = []

    def run() -> None:
        try:
            with transaction.atomic():
                work[0]()
                ready.set()
                go.wait(30)
        except DatabaseError as error:
            failures.append(error)
        finally:
            ready.set()
            connections.close_all()

    thread = threading.Thread(target=run)

    def begin(action: Any) -> None:
        work.append(action)
        thread.start()
        ready.wait(30)

    try:
        yield begin
    finally:
        go.set()
        thread.join()
    assert failures == []


def test_an_hour_is_not_sealed_while_an_older_booking_is_not_committed(credit, stripe):
    first = hold(credit)
    with in_another_transaction() as begin:
        begin(lambda: settle(credit.item(first)))
        seal_hours(wait=NOW)
        assert not MeterSeal.objects.filter(sealed_at__isnull=False).exists()
    age(1)

    seal_hours(wait=NOW)
    send_reports()

    assert [usage for usage, *_ in reported()] == [PRICE_NANOS]
    check_books(stripe)


def test_sealing_without_looking_at_transactions_would_miss_it(credit, stripe, monkeypatch):
    """The control: the clock alone seals the hour, and a booking of it comes too late."""
    monkeypatch.setattr(meter, "read_oldest_transaction", lambda: 2**62)
    first = hold(credit)
    with in_another_transaction() as begin:
        begin(lambda: (settle(credit.item(first)), age_here(1)))
        seal_hours(wait=NOW)

    assert reported() == []
    assert broken() == {"reports-equal-usage"}


def age_here(hours: float) -> None:
    # A trigger cannot be switched off beside other transactions; this one refuses no update here.
    query(
        "UPDATE billing_transfer SET created_at = created_at - %s WHERE kind = 'usage' RETURNING 1",
        timedelta(hours=hours),
    )


@pytest.fixture(autouse=True)
def _transfers_may_age(request: pytest.FixtureRequest) -> Iterator[None]:
    if "would_miss" not in request.node.name:
        yield
        return
    request.getfixturevalue("transactional_db")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER USER")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_transfer ENABLE TRIGGER USER")


def test_late_usage_gets_the_next_number_and_is_counted(credit, stripe):
    buy(credit, 2)
    age(2)
    seal_hours(wait=NOW)
    send_reports()
    # As after a database that went back in time: stamped into an hour that is sealed.
    buy(credit, 3)
    age(2)
    assert broken() == {"reports-equal-usage"}
    reopen_last_hour()

    assert seal_hours(wait=NOW) == 1
    send_reports()

    assert [(usage, seq) for usage, _, _, seq in reported()] == [(2_002, 1), (3_003, 2)]
    assert len({report.hour for report in MeterReport.objects.all()}) == 1
    check_books(stripe)


def test_late_usage_whose_period_is_over_counts_into_the_open_one(credit, stripe):
    buy(credit)
    age(3)
    seal_hours(wait=NOW)
    (subscription,) = stripe.subscriptions
    draft = stripe.end_period(subscription, this_hour() - HOUR)
    stripe.finalize(draft, this_hour())

    assert send_reports() == 1

    ((_, moment, value),) = stripe.events.values()
    assert (moment >= this_hour() - timedelta(minutes=1), value) == (True, 1)
    (period,) = stripe.subscriptions.values()
    assert stripe.count("cus_00000000000001", period.current_period_start, moment + HOUR) == 1


def test_while_its_invoice_is_a_draft_late_usage_stays_in_its_period(credit, stripe):
    buy(credit)
    age(3)
    seal_hours(wait=NOW)
    (subscription,) = stripe.subscriptions
    draft = stripe.end_period(subscription, this_hour() - HOUR)

    send_reports()

    assert stripe.finalize(draft, this_hour()).lines[0].quantity == 1


def test_the_gateways_clock_decides_nothing(credit, stripe):
    for skew in (timedelta(days=-2), timedelta(minutes=-10), timedelta(days=2)):
        buy(credit, occurred_at=(read_clock() + skew).isoformat())
    age(1)

    seal_hours(wait=NOW)
    send_reports()

    assert [(usage, seq) for usage, _, _, seq in reported()] == [(3 * PRICE_NANOS, 1)]
    check_books(stripe)


def test_two_workers_seal_an_hour_once(credit, stripe):
    buy(credit, 5)
    age(1)
    errors: list[DatabaseError] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        try:
            barrier.wait()
            seal_hours(wait=NOW)
            send_reports()
        except DatabaseError as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One that waits sees another's open transaction; the next run goes on.
    seal_hours(wait=NOW)
    send_reports()

    assert errors == []
    assert [usage for usage, *_ in reported()] == [5 * PRICE_NANOS]
    check_books(stripe)


def test_after_a_restore_from_a_dump_all_is_found_again(credit, stripe):
    buy(credit)
    age(2)
    seal_hours(wait=NOW)
    # The dump's numbers of transactions are from another life.
    MeterSeal.objects.update(mark_transaction=2**40, barrier_transaction=2**40)
    buy(credit, 2)
    age(1)
    reopen_last_hour()

    seal_hours(wait=NOW)
    send_reports()

    check_books(stripe)


def test_the_next_hour_reads_what_it_needs_and_not_all(credit, stripe):
    buy(credit)
    age(2)
    seal_hours(wait=NOW)
    buy(credit)

    seal = MeterSeal.objects.order_by("hour").last()

    assert seal.mark_transaction > int(query("SELECT min(xid)::text FROM billing_usageevent")[0][0])


# --- Sending ---


def test_a_report_is_written_before_it_is_sent(credit, stripe, monkeypatch):
    buy(credit)
    age(1)
    seal_hours(wait=NOW)
    seen: list[tuple[str, bool]] = []

    def look(**values: Any) -> bool:
        row = MeterReport.objects.get(identifier=values["identifier"])
        seen.append((row.state, connection.in_atomic_block))
        return True

    monkeypatch.setattr(stripe, "send_meter_event", look)
    send_reports()

    assert seen == [("sent", False)]


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
def test_a_lost_answer_counts_once(credit, stripe, lost):
    buy(credit, 4)
    age(1)
    seal_hours(wait=NOW)
    getattr(stripe, lost)["send_meter_event"] = 3

    assert [send_reports() for _ in range(5)] == [0, 0, 0, 1, 0]

    check_books(stripe)


def test_an_identifier_that_is_drawn_at_random_doubles_usage(credit, stripe, monkeypatch):
    """The control: a report that is made anew for each try is counted each time."""
    buy(credit, 4)
    age(1)
    seal_hours(wait=NOW)
    stripe.lost_after["send_meter_event"] = 1
    send = stripe.send_meter_event
    monkeypatch.setattr(
        stripe, "send_meter_event", lambda **values: send(**values | {"identifier": str(new_id())})
    )

    send_reports()
    send_reports()

    assert counted(stripe) == 2 * (used_nanos() // 1_000)


def test_a_report_that_is_sent_before_it_is_written_is_lost_and_doubled(
    credit, stripe, monkeypatch
):
    """The control: a worker that dies between the call and its row sends under another number."""

    def write_after(account_id: Any, hour: Any, transfers: Any) -> None:
        nanos = sum(one.nanos for one in transfers)
        stripe.send_meter_event(
            event_name="x",
            customer_id="cus_00000000000001",
            value=nanos // 1_000,
            identifier=str(new_id()),
            occurred_at=hour,
        )
        raise StripeUnavailableError("died")

    buy(credit, 4)
    age(1)
    with monkeypatch.context() as patch:
        patch.setattr(meter, "_write_report", write_after)
        for _ in range(2):
            with pytest.raises(StripeUnavailableError):
                seal_hours(wait=NOW)

    with pytest.raises(AssertionError):
        check_books(stripe)


def test_stripe_having_it_already_is_success(credit, stripe):
    buy(credit)
    age(1)
    seal_hours(wait=NOW)
    report = MeterReport.objects.get()
    stripe.events[report.identifier] = ("cus_00000000000001", report.counted_at, 1)

    assert send_reports() == 1

    report.refresh_from_db()
    assert (report.state, len(stripe.events)) == ("ok", 1)


def forget(stripe: MeteredStripe) -> None:
    """A day later: Stripe may count an identifier again."""
    stripe.events = {f"forgotten:{name}": event for name, event in stripe.events.items()}
    MeterReport.objects.update(first_sent_at=read_clock() - timedelta(hours=20, minutes=1))


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
def test_what_is_unknown_for_a_day_is_looked_up_before_it_is_sent_again(credit, stripe, lost):
    for hours in (3, 2):
        buy(credit, hours)
        age(hours)
    seal_hours(wait=NOW)
    getattr(stripe, lost)["send_meter_event"] = 1
    assert send_reports() == 0
    forget(stripe)

    assert send_reports() == 2

    assert stripe.calls["summarize_meter"] == 1
    check_books(stripe)


def test_without_looking_it_up_it_would_be_counted_twice(credit, stripe, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(meter, "BLIND_RETRY_MAX", timedelta(days=9))
    buy(credit)
    age(1)
    seal_hours(wait=NOW)
    stripe.lost_after["send_meter_event"] = 1
    send_reports()
    forget(stripe)

    send_reports()

    assert counted(stripe) == 2


def test_a_sum_that_fits_nothing_is_left_to_a_person(credit, stripe):
    buy(credit, 4)
    age(1)
    seal_hours(wait=NOW)
    stripe.lost_before["send_meter_event"] = 1
    send_reports()
    report = MeterReport.objects.get()
    stripe.events["somebody's"] = ("cus_00000000000001", report.counted_at, 3)
    forget(stripe)

    assert send_reports() == 0

    report.refresh_from_db()
    assert (report.state, counted(stripe)) == ("unclear", 3)


def test_a_refused_report_does_not_stop_the_others(credit, stripe, monkeypatch):
    for hours in (3, 2):
        buy(credit)
        age(hours)
    seal_hours(wait=NOW)
    send, refused = stripe.send_meter_event, []

    def refuse_first(**values: Any) -> bool:
        if not refused:
            refused.append(values)
            raise StripeRefusedError("no")
        return send(**values)

    monkeypatch.setattr(stripe, "send_meter_event", refuse_first)

    assert send_reports() == 1
    assert sorted(MeterReport.objects.values_list("state", flat=True)) == ["ok", "unclear"]


def settle_down() -> None:
    """Half an hour later, when Stripe has added up."""
    MeterReport.objects.update(sent_at=read_clock() - timedelta(minutes=31))


def test_what_stripe_counted_is_what_was_sent(credit, stripe):
    for _ in range(3):
        buy(credit, 2)
        age(1)
    seal_hours(wait=NOW)
    send_reports()
    assert meter.find_miscounted() == []
    assert stripe.calls["summarize_meter"] == 0
    settle_down()

    assert meter.find_miscounted() == []
    assert stripe.calls["summarize_meter"] == 3


@pytest.mark.parametrize("harm", ["lose", "double", "alter"])
def test_what_stripe_lost_doubled_or_altered_is_found(credit, stripe, harm):
    for _ in range(3):
        buy(credit, 2)
        age(1)
    seal_hours(wait=NOW)
    send_reports()
    settle_down()
    name, (customer, moment, value) = next(iter(stripe.events.items()))
    match harm:
        case "lose":
            del stripe.events[name]
        case "double":
            stripe.events["again"] = stripe.events[name]
        case _:
            stripe.events[name] = (customer, moment, value + 1)

    (fault,) = meter.find_miscounted()

    assert f"{value} sent" in fault


@pytest.mark.parametrize("module", ["meter", "invoice", "dunning", "postpaid"])
def test_no_clock_but_the_databases_is_asked(module):
    source = (Path(meter.__file__).parent / f"{module}.py").read_text()

    assert "read_clock" in source
    for other in ("timezone", "utc_now", ".now(", "time.time"):
        assert other not in source


# --- What stays ---


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_meterreport SET value_micro = value_micro + 1",
        "UPDATE billing_meterreport SET usage_nanos = usage_nanos + 1",
        "UPDATE billing_meterreport SET identifier = 'x'",
        "DELETE FROM billing_meterreport",
        "UPDATE billing_meteredtransfer SET report_id = report_id",
        "DELETE FROM billing_meteredtransfer",
    ],
)
def test_the_database_refuses_to_change_what_was_reported(credit, stripe, change):
    buy(credit)
    age(1)
    seal_hours(wait=NOW)

    with (
        pytest.raises(DatabaseError) as caught,
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(change)

    assert caught.value.__cause__.sqlstate == "SR423"


def test_the_reads_are_what_they_say(credit, stripe):
    buy(credit, 2)
    age(1)
    window = selectors.Window(0, selectors.read_next_transaction(), this_hour())

    (one,) = selectors.list_unreported(window)

    assert (one.account_id, one.nanos, one.predictions) == (credit.consumer.pk, 2_002, 2)
    assert one.booked_at < this_hour()
