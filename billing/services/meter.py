"""Report what postpaid accounts used to the meter at Stripe: each nano-dollar once.

Bookings are put into the hour in which the database stamped them. An hour is sealed once no
transaction that began before its end still runs; what is found later all the same (after a
restored database, or a database whose clock went back) gets a further report. A report is
written before it is sent, under an identifier that follows from what it reports, and Stripe
counts an identifier once.

Stripe counts in whole millionths of a dollar. What a report sends is the difference of two
sums that are rounded down, so that no nano-dollar is lost on the way, and none is made. What was
given back is taken off; a meter cannot count backwards, so what is too much is carried as credit
until usage makes up for it, or goes to the wallet once the account is closed.

Source: Stripe API, meter events (identifiers are unique for 24 hours at least; timestamps
reach back 35 days).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Max
from django.db.models.functions import Now

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import (
    Invoice,
    LedgerAccount,
    MeteredTransfer,
    MeterReport,
    MeterSeal,
    PostpaidTerms,
    StripeCustomer,
    Transfer,
)
from billing.selectors.meter import (
    HOUR,
    Unreported,
    Window,
    find_last_report,
    find_next_mark,
    list_unreported,
    read_clock,
    read_next_transaction,
    read_oldest_transaction,
    sum_micro,
)
from billing.services import ledger
from billing.services.stripe_client import get_stripe
from marketplace.core.ids import new_id

logger = logging.getLogger(__name__)

# The one meter that there is: it counts millionths of a dollar.
EVENT_NAME = "strongroom_usage_micro_usd"
NANOS_PER_MICRO = 1_000
# Bookings of an hour are committed by then as a rule; the transactions decide, not this.
SEAL_AFTER = timedelta(minutes=5)
# Two days at a time, should no worker have run; the next run goes on.
HOURS_PER_RUN_MAX = 48
SENDS_PER_RUN_MAX = 500
# Stripe may forget an identifier after 24 hours: from here on its sums are asked first.
BLIND_RETRY_MAX = timedelta(hours=20)
# A report this late may belong to a period that is over.
LATE_AFTER = timedelta(minutes=30)
# Stripe adds up with a delay of minutes.
COMPARE_AFTER = timedelta(minutes=30)
COMPARE_WITHIN = timedelta(days=1)
_LOCK = 0x4D65_7465_7253_6561
_ROWS_PER_INSERT = 1_000


def seal_hours(*, wait: timedelta = SEAL_AFTER) -> int:
    """Seal each hour that is over, oldest first, and write its reports; returns how many hours.

    Args:
        wait: How long after its end an hour is looked at first.
    """
    sealed = 0
    for _ in range(HOURS_PER_RUN_MAX):
        hour = _find_next_hour()
        if hour is None or read_clock() < hour + HOUR + wait or not _seal(hour):
            break
        sealed += 1
    return sealed


def send_reports(*, account_id: UUID | None = None) -> int:
    """Send what Stripe has not confirmed; returns how many it has now.

    Args:
        account_id: Only this account's.
    """
    waiting = MeterReport.objects.filter(state__in=[MeterReport.State.NEW, MeterReport.State.SENT])
    if account_id is not None:
        waiting = waiting.filter(account_id=account_id)
    count = 0
    for report in waiting.order_by("created_at", "number")[:SENDS_PER_RUN_MAX]:
        try:
            count += _send(report)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; reports go on next time")
            break
        except StripeRefusedError as error:
            logger.critical("meter report %s was refused: %s", report.identifier, error.detail)
            _set_state(report, MeterReport.State.UNCLEAR)
    return count


def find_miscounted() -> list[str]:
    """Hours of the last day of which Stripe's sum is not what was reported; for a person.

    Raises:
        StripeUnavailableError: Stripe could not be asked.
    """
    now = read_clock()
    settled = MeterReport.objects.filter(
        counted_at__gte=now - COMPARE_WITHIN, sent_at__lt=now - COMPARE_AFTER
    )
    found = []
    for account_id, hour in sorted(
        {(one.account_id, _hour_of(one.counted_at)) for one in settled}, key=str
    ):
        reports = MeterReport.objects.filter(
            account_id=account_id, counted_at__gte=hour, counted_at__lt=hour + HOUR
        )
        # While one of them is on its way the sum may be either.
        if reports.filter(state=MeterReport.State.SENT).exists():
            continue
        reported = sum_micro(reports.filter(state=MeterReport.State.OK))
        counted = _ask_count(account_id, hour)
        if counted != reported:
            found.append(f"{account_id} {hour:%Y-%m-%d %H}: {reported} sent, {counted} counted")
    for fault in found:
        logger.critical("meter: %s", fault)
    return found


def return_credit(account_id: UUID) -> int:
    """Move carried credit from the receivable to the wallet; returns how many nanos went.

    Who left an invoice unpaid that was written off never paid for it: there it makes up for a
    part of that instead.

    No more than the receivable holds above zero: what is owed otherwise is set off first. The
    report that takes it off the credit names the transfer, so that it goes once. The caller is in
    a transaction.
    """
    _lock_reports()
    last = find_last_report(account_id)
    kinds = LedgerAccount.Kind
    receivable_id = ledger.get_ledger_account_id(kinds.RECEIVABLE, holder_id=account_id)
    wallet_id = ledger.get_ledger_account_id(kinds.WALLET, holder_id=account_id)
    bad_debt_id = ledger.get_ledger_account_id(kinds.BAD_DEBT)
    # The end of an agreement goes on to round in the same transaction.
    rounding_id = ledger.get_ledger_account_id(kinds.ROUNDING)
    ledger.lock_accounts([receivable_id, wallet_id, bad_debt_id, rounding_id])
    above_nanos = LedgerAccount.objects.get(pk=receivable_id).posted_nanos
    nanos = min(last.credit_nanos if last else 0, above_nanos)
    if last is None or nanos <= 0:
        return 0
    transfer_id, now = new_id(), read_clock()
    unpaid = Invoice.objects.filter(account_id=account_id, written_off_nanos__gt=0, booked_at=None)
    target_id = bad_debt_id if unpaid.exists() else wallet_id
    ledger.post_transfer(
        transfer_id=transfer_id,
        kind=Transfer.Kind.ADJUSTMENT,
        idempotency_key=f"postpaid-returned:{account_id}:{last.number + 1}",
        amounts_nanos={receivable_id: -nanos, target_id: nanos},
        reference=last.identifier,
    )
    returned = Unreported(transfer_id, account_id, now, 0, 0, returned_nanos=nanos)
    _write_report(account_id, _hour_of(now), [returned])
    return nanos


# --- Sealing ------------------------------------------------------------------------


def _find_next_hour() -> datetime | None:
    last = MeterSeal.objects.filter(sealed_at__isnull=False).aggregate(hour=Max("hour"))["hour"]
    if last is not None:
        return last + HOUR
    first = PostpaidTerms.objects.exclude(activated_at=None).order_by("activated_at").first()
    if first is None or first.activated_at is None:
        return None
    return _hour_of(first.activated_at)


def _seal(hour: datetime) -> bool:
    """Whether the hour is sealed now; not while an older transaction may still add to it."""
    next_transaction = read_next_transaction()
    # In a transaction of its own: the barrier is one that the sealing below is not part of.
    seal, _ = MeterSeal.objects.get_or_create(
        hour=hour, defaults={"barrier_transaction": next_transaction}
    )
    if seal.barrier_transaction > next_transaction:
        # Restored from a dump: numbers begin anew.
        MeterSeal.objects.filter(pk=hour).update(barrier_transaction=next_transaction)
        seal.barrier_transaction = next_transaction
    with transaction.atomic():
        _lock_reports()
        # Before this transaction writes and has a number itself.
        if read_oldest_transaction() < seal.barrier_transaction:
            return False
        if MeterSeal.objects.filter(pk=hour, sealed_at__isnull=False).exists():
            return True  # Another worker was first.
        window = Window(_find_mark(hour), seal.barrier_transaction, until=hour + HOUR)
        found: dict[tuple[UUID, datetime], list[Unreported]] = defaultdict(list)
        for one in list_unreported(window):
            found[one.account_id, _hour_of(one.booked_at)].append(one)
        for (account_id, booked), transfers in sorted(found.items(), key=lambda item: item[0][1]):
            if booked < hour:
                logger.warning("late bookings of %s for %s", booked, account_id)
            _write_report(account_id, booked, transfers)
        MeterSeal.objects.filter(pk=hour).update(
            mark_transaction=find_next_mark(window), sealed_at=Now()
        )
    return True


def _lock_reports() -> None:
    """One at a time carries sums on, to the end of its transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _find_mark(hour: datetime) -> int:
    before = MeterSeal.objects.filter(hour__lt=hour, sealed_at__isnull=False)
    last = before.order_by("-hour").first()
    if last is None or last.mark_transaction is None:
        return 0
    # After a restore: read all once more, and pass over what is in a report.
    return last.mark_transaction if last.mark_transaction <= read_next_transaction() else 0


def _write_report(account_id: UUID, hour: datetime, transfers: list[Unreported]) -> None:
    """One more report of an account; the sums of all before it are carried on."""
    reports = MeterReport.objects.filter(account_id=account_id)
    last = find_last_report(account_id)
    before_nanos, credit_nanos = (last.total_nanos, last.credit_nanos) if last else (0, 0)
    seq = (reports.filter(hour=hour).aggregate(seq=Max("seq"))["seq"] or 0) + 1
    usage_nanos = sum(one.nanos for one in transfers)
    reversed_nanos = sum(one.reversed_nanos for one in transfers)
    returned_nanos = sum(one.returned_nanos for one in transfers)
    net_nanos = before_nanos - credit_nanos + usage_nanos - reversed_nanos + returned_nanos
    # What Stripe has counted stays counted.
    total_nanos = max(before_nanos, net_nanos)
    value_micro = total_nanos // NANOS_PER_MICRO - before_nanos // NANOS_PER_MICRO
    report = MeterReport.objects.create(
        account_id=account_id,
        hour=hour,
        seq=seq,
        number=last.number + 1 if last else 1,
        counted_at=hour + HOUR - timedelta(seconds=1),
        usage_nanos=usage_nanos,
        reversed_nanos=reversed_nanos,
        returned_nanos=returned_nanos,
        total_nanos=total_nanos,
        credit_nanos=total_nanos - net_nanos,
        value_micro=value_micro,
        residual_nanos=total_nanos % NANOS_PER_MICRO,
        predictions=sum(one.predictions for one in transfers),
        identifier=make_identifier(account_id, hour, seq),
        state=MeterReport.State.NEW if value_micro else MeterReport.State.NOTHING,
    )
    MeteredTransfer.objects.bulk_create(
        (MeteredTransfer(transfer_id=one.transfer_id, report=report) for one in transfers),
        batch_size=_ROWS_PER_INSERT,
    )


def make_identifier(account_id: UUID, hour: datetime, seq: int) -> str:
    """Under what Stripe counts a report: the same however often it is made."""
    meter_id = PostpaidTerms.objects.get(account_id=account_id).meter_id
    customer_id = StripeCustomer.objects.get(account_id=account_id).customer_id
    return f"pd:{meter_id}:{customer_id}:{hour:%Y%m%d%H}:{seq}"


# --- Sending ------------------------------------------------------------------------


def _send(report: MeterReport) -> bool:
    """Whether Stripe has counted the report."""
    now = read_clock()
    if report.state == MeterReport.State.NEW:
        _redate(report, now)
        # Written down before it leaves: from here on it may have been counted.
        _set_state(report, MeterReport.State.SENT, counted_at=report.counted_at, first_sent_at=now)
    elif report.first_sent_at is not None and now - report.first_sent_at > BLIND_RETRY_MAX:
        is_there = _is_counted(report)
        if is_there is None:
            logger.critical("meter report %s: Stripe's sums fit nothing", report.identifier)
            _set_state(report, MeterReport.State.UNCLEAR)
            return False
        if is_there:
            _set_state(report, MeterReport.State.OK, sent_at=Now())
            return True
    customer_id = StripeCustomer.objects.get(account_id=report.account_id).customer_id
    # False would tell that Stripe had it already: it is counted either way.
    get_stripe().send_meter_event(
        event_name=EVENT_NAME,
        customer_id=customer_id,
        value=report.value_micro,
        identifier=report.identifier,
        occurred_at=report.counted_at,
    )
    _set_state(report, MeterReport.State.OK, sent_at=Now())
    return True


def _redate(report: MeterReport, now: datetime) -> None:
    """Count what comes late into the open period, where its own has got its invoice."""
    if now - report.counted_at < LATE_AFTER:
        return
    terms = PostpaidTerms.objects.get(account_id=report.account_id)
    subscription = get_stripe().retrieve_subscription(terms.subscription_id)
    if report.counted_at >= subscription.current_period_start:
        return
    latest_id = subscription.latest_invoice_id
    latest = get_stripe().retrieve_invoice(latest_id) if latest_id else None
    is_taken_on = (
        latest is not None and latest.status == "draft" and latest.period_start <= report.counted_at
    )
    if not is_taken_on:
        logger.warning("meter report %s goes into the present period", report.identifier)
        report.counted_at = now


def _is_counted(report: MeterReport) -> bool | None:
    """Whether a report is in Stripe's sum of its hour; None where the sum fits neither."""
    hour = _hour_of(report.counted_at)
    counted = _ask_count(report.account_id, hour)
    same_hour = MeterReport.objects.filter(
        account_id=report.account_id, counted_at__gte=hour, counted_at__lt=hour + HOUR
    )
    known = sum_micro(same_hour.filter(state=MeterReport.State.OK))
    unknown = sum_micro(same_hour.filter(state=MeterReport.State.SENT))
    if counted == known:
        return False
    return True if counted in (known + report.value_micro, known + unknown) else None


def _ask_count(account_id: UUID, hour: datetime) -> int:
    """What Stripe counted for an account in an hour."""
    terms = PostpaidTerms.objects.get(account_id=account_id)
    customer_id = StripeCustomer.objects.get(account_id=account_id).customer_id
    hours = get_stripe().summarize_meter(
        meter_id=terms.meter_id, customer_id=customer_id, start=hour, end=hour + HOUR
    )
    return sum(one.value for one in hours)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _set_state(report: MeterReport, state: MeterReport.State, **values: object) -> None:
    report.state = state
    MeterReport.objects.filter(pk=report.pk).update(state=state, **values)
