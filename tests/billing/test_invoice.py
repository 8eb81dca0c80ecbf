"""Invoices: what they come to, when they are booked, and what happens if nobody pays."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection

from billing.models import (
    Invoice,
    InvoiceNotice,
    LedgerAccount,
    MeterReport,
    PostpaidTerms,
    Transfer,
)
from billing.selectors.meter import HOUR, read_clock
from billing.services import dunning, meter
from billing.services import invoice as service
from billing.services import stripe_event as webhooks
from billing.services.dunning import remind_of_invoices
from marketplace.core.errors import ConflictError, ForbiddenError
from marketplace.models import AuditEvent, Membership
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, balances, hold, reserve, settle
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import (
    age,
    agree,
    begin_earlier,
    broken,
    buy,
    receivable,
    reopen_last_hour,
    this_hour,
)
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db(transaction=True)

NOW = timedelta(0)
# So many predictions in one come to 50.05 cents.
MANY = 500_000


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def credit(shop: Shop, stripe: MeteredStripe, platform_admin: Any, owner: Any) -> Shop:
    """The consumer, whose owner reads mail, has had credit for six hours."""
    Membership.objects.create(account=shop.consumer, user=owner, role="owner")
    begin_earlier(agree(shop, platform_admin), stripe, 6)
    return shop


def use(shop: Shop, units: int = MANY) -> None:
    """One dear prediction."""
    nanos = units * PRICE_NANOS
    ((hold_id, _, outcome),) = reserve(asked(shop.consumer.pk, nanos))
    assert outcome == "held"
    assert settle(shop.item(hold_id, units=units, gross_nanos=nanos)) == ["settled"]


def report() -> None:
    age(2)
    reopen_last_hour()
    meter.seal_hours(wait=NOW)
    meter.send_reports()


def issue(stripe: MeteredStripe, at: datetime | None = None, **wrong: int) -> str:
    """The period ends, and its invoice is final; its id."""
    (subscription,) = stripe.subscriptions
    invoice_id = stripe.end_period(subscription, at or this_hour())
    stripe.finalize(invoice_id, read_clock(), **wrong)
    return invoice_id


def pay(stripe: MeteredStripe, invoice_id: str) -> Invoice:
    stripe.pay(invoice_id, read_clock())
    found = service.mirror_invoice(invoice_id)
    assert found is not None
    return found


# --- Comparing and booking ---


def test_a_paid_invoice_is_booked_once_and_to_the_nano(credit, stripe):
    use(credit)
    report()
    invoice_id = issue(stripe)

    found = service.mirror_invoice(invoice_id)
    assert (found.state, found.total_cents, found.check_state) == ("open", 50, "agrees")
    assert receivable(credit).owed_nanos == MANY * PRICE_NANOS
    for _ in range(3):
        found = pay(stripe, invoice_id)

    assert found.booked_at is not None
    # 50.05 cents were used and 50 are on the invoice: Stripe rounded 0.05 cents in their favour.
    transfer = Transfer.objects.get(kind="invoice_paid")
    entries = transfer.entries.values_list("ledger_account__kind", "amount_nanos")
    assert sorted(entries) == [
        ("receivable", 500_500_000),
        ("rounding", -500_000),
        ("stripe_clearing", -500_000_000),
    ]
    assert receivable(credit).posted_nanos == 0
    assert broken() == set()


def test_tax_is_owed_to_the_state(credit, stripe):
    stripe.tax_percent = 19
    use(credit)
    report()

    pay(stripe, issue(stripe))

    assert balances()["tax_payable"] == (90_000_000, 0)
    assert balances()["stripe_clearing"] == (-590_000_000, 0)
    assert balances()["receivable"] == (0, 0)
    assert broken() == set()


def test_an_invoice_for_less_than_a_cent_is_rounded_away(credit, stripe):
    buy(credit)
    report()

    found = service.mirror_invoice(issue(stripe))

    assert (found.state, found.total_cents, found.booked_at is not None) == ("paid", 0, True)
    assert balances()["rounding"] == (-1_000, 0)
    assert receivable(credit).owed_nanos == 1
    assert broken() == set()


def test_an_invoice_for_nothing_moves_nothing(credit, stripe):
    found = service.mirror_invoice(issue(stripe))

    assert (found.state, found.booked_at is not None) == ("paid", True)
    assert not Transfer.objects.exists()
    assert broken() == set()


@pytest.mark.parametrize(("wrong_cents", "agrees"), [(0, True), (1, True), (-1, True), (2, False)])
def test_one_cent_of_rounding_and_one_past_it(credit, stripe, wrong_cents, agrees):
    # 1,001 cents, to the nano-dollar.
    use(credit, 10_000_000)
    report()

    found = pay(stripe, issue(stripe, wrong_cents=wrong_cents))

    assert found.check_state == ("agrees" if agrees else "differs")
    assert (found.booked_at is not None) == agrees
    assert Transfer.objects.filter(kind="invoice_paid").exists() == agrees
    assert broken() == set()


def test_usage_that_missed_the_invoice_sets_it_aside(credit, stripe):
    use(credit)
    report()
    use(credit)
    invoice_id = issue(stripe)
    # Counted by Stripe into the period after its invoice was final.
    age(2)
    reopen_last_hour()
    meter.seal_hours(wait=NOW)
    assert MeterReport.objects.filter(state="new").update(state="ok") == 1

    found = pay(stripe, invoice_id)

    assert (found.check_state, found.booked_at) == ("differs", None)
    assert "50 cents" in found.note
    assert not Transfer.objects.filter(kind="invoice_paid").exists()


def test_a_person_can_accept_a_difference_and_says_why(credit, stripe, platform_admin):
    use(credit, 10_000_000)
    report()
    found = pay(stripe, issue(stripe, wrong_cents=-100))
    admin = Actor(user=platform_admin)
    assert found.check_state == "differs"
    with pytest.raises(ForbiddenError):
        service.accept_invoice(Actor(), found, reason="x")

    service.accept_invoice(admin, found, reason="their line was down")

    # A dollar less was paid than was used, and is not owed any more.
    assert balances()["bad_debt"] == (-1_000_000_000, 0)
    assert receivable(credit).posted_nanos == 0
    payload = AuditEvent.objects.get(action="invoice.accept").payload
    assert payload["reason"] == "their line was down"
    assert "901 cents" in payload["fault"]
    assert pay(stripe, found.stripe_id).check_state == "accepted"
    with pytest.raises(ConflictError):
        service.accept_invoice(admin, found, reason="again")
    assert broken() == set()


def test_a_report_whose_answer_is_lost_is_waited_for(credit, stripe):
    use(credit)
    stripe.lost_after["send_meter_event"] = 1
    report()
    invoice_id = issue(stripe)
    assert pay(stripe, invoice_id).check_state == "waiting"
    assert not Transfer.objects.filter(kind="invoice_paid").exists()

    meter.send_reports()
    service.poll_invoices()

    found = Invoice.objects.get()
    assert (found.check_state, found.booked_at is not None) == ("agrees", True)


def test_what_is_paid_in_part_or_otherwise_is_set_aside(credit, stripe):
    from dataclasses import replace

    use(credit)
    report()
    invoice_id = issue(stripe)
    stripe.pay(invoice_id, read_clock())
    stripe.invoices[invoice_id] = replace(stripe.invoices[invoice_id], amount_paid=49)

    found = service.mirror_invoice(invoice_id)

    assert (found.check_state, found.booked_at) == ("differs", None)


def test_in_the_grace_hour_what_is_left_is_flushed(credit, stripe):
    use(credit)
    age(1)
    (subscription,) = stripe.subscriptions
    invoice_id = stripe.end_period(subscription, this_hour())

    # Sealed without the five minutes' wait, and sent.
    assert webhooks.HANDLERS["invoice.created"](invoice_id)

    assert stripe.finalize(invoice_id, read_clock()).subtotal == 50
    assert pay(stripe, invoice_id).check_state == "agrees"


def test_without_the_flush_it_would_be_lost_to_the_invoice(credit, stripe, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(service, "flush_reports", lambda _invoice: 0)
    use(credit)
    age(1)
    (subscription,) = stripe.subscriptions
    invoice_id = stripe.end_period(subscription, this_hour())

    webhooks.HANDLERS["invoice.created"](invoice_id)

    assert stripe.finalize(invoice_id, read_clock()).subtotal == 0


def test_webhooks_in_any_order_and_number_come_to_the_same(credit, stripe):
    use(credit)
    report()
    invoice_id = issue(stripe)
    stripe.pay(invoice_id, read_clock())
    kinds = ["invoice.created", "invoice.finalized", "invoice.paid"]

    for order in itertools.permutations([*kinds, "invoice.paid"]):
        for kind in order:
            assert webhooks.HANDLERS[kind](invoice_id)

    assert Transfer.objects.filter(kind="invoice_paid").count() == 1
    assert Invoice.objects.count() == 1
    assert broken() == set()


def test_an_invoice_that_no_webhook_told_of_is_found(credit, stripe):
    use(credit)
    report()
    stripe.pay(issue(stripe), read_clock())

    assert service.poll_invoices() == 1

    assert Invoice.objects.get().booked_at is not None


def test_an_invoice_of_others_is_none_of_ours(credit, stripe):
    from dataclasses import replace

    use(credit)
    report()
    invoice_id = issue(stripe)
    ours = stripe.invoices[invoice_id]
    for name, value in (("customer", "cus_other"), ("subscription_id", "sub_other")):
        stripe.invoices["in_other"] = replace(ours, id="in_other", **{name: value})
        assert service.look_at_invoice("in_other") is False
    assert not Invoice.objects.exists()


def test_the_floor_follows_a_lowered_limit_when_it_is_paid(credit, stripe):
    from billing.services.postpaid import set_credit

    use(credit)
    report()
    PostpaidTerms.objects.update(credit_limit_nanos=1_000)
    set_credit(credit.consumer.pk, 1_000)
    assert receivable(credit).min_available_nanos == -MANY * PRICE_NANOS

    pay(stripe, issue(stripe))

    assert receivable(credit).min_available_nanos == -1_000


def test_what_was_carried_is_paid_with_the_next_invoice(credit, stripe):
    use(credit, 200_000)  # 20.02 cents.
    report()
    issue(stripe, at=this_hour() - HOUR)
    assert service.poll_invoices() == 1
    assert receivable(credit).owed_nanos == 200_000_000
    use(credit)  # 50.05 cents, and late: it counts into the present period.
    report()
    second = issue(stripe, at=read_clock())

    found = pay(stripe, second)

    assert (found.total_cents, found.due_cents, found.check_state) == (50, 70, "agrees")
    assert receivable(credit).posted_nanos == 0
    assert balances()["stripe_clearing"] == (-700_000_000, 0)
    assert broken() == set()


@pytest.mark.parametrize(("cents", "due"), [(49, 0), (50, 50)])
def test_the_least_that_is_charged_and_one_cent_less(credit, stripe, cents, due):
    use(credit, cents * 10_000 * 1_000 // PRICE_NANOS + 1)
    report()

    found = service.mirror_invoice(issue(stripe))

    assert (found.total_cents, found.due_cents, found.check_state) == (cents, due, "agrees")


# --- Dunning ---


@pytest.fixture
def unpaid(credit, stripe) -> str:
    use(credit)
    report()
    invoice_id = issue(stripe)
    service.mirror_invoice(invoice_id)
    return invoice_id


def let_days_pass(stripe: MeteredStripe, invoice_id: str, days: float) -> None:
    """Stripe's clock: the invoice was issued so long before its due day passed by so much."""
    from dataclasses import replace

    issued = read_clock() - timedelta(days=14 + days)
    stripe.invoices[invoice_id] = replace(
        stripe.invoices[invoice_id], finalized_at=issued, created_at=issued
    )
    service.mirror_invoice(invoice_id)


def test_who_does_not_pay_is_reminded_and_then_paused(credit, stripe, unpaid):
    told = []
    for days in (-0.1, 0, 1, 3, 5, 7, 13.9, 14, 20):
        let_days_pass(stripe, unpaid, days)
        remind_of_invoices()
        remind_of_invoices()
        paused = PostpaidTerms.objects.get().paused_at is not None
        told.append((days, len(mail.outbox), paused))

    assert told == [
        (-0.1, 0, False),
        (0, 1, False),
        (1, 1, False),
        (3, 2, False),
        (5, 2, False),
        (7, 3, False),
        (13.9, 3, False),
        (14, 4, True),
        (20, 4, True),
    ]
    subjects = [one.subject for one in mail.outbox]
    assert "is due" in subjects[0]
    assert subjects[1] == subjects[2] == "Reminder: invoice SR-in_1 is not paid"
    assert "paused" in subjects[3]
    assert mail.outbox[0].to == ["owner@example.com"]
    assert f"/console/invoices/{Invoice.objects.get().pk}" in mail.outbox[0].body
    stages = InvoiceNotice.objects.order_by("pk").values_list("stage", flat=True)
    assert list(stages) == ["due", "first", "second", "paused"]
    titles = [title for _, title in list_told("invoice")]
    assert titles[0].startswith("Invoice SR-in_1 over $")
    assert titles[1:] == ["Invoice SR-in_1 is not paid"] * 4


def test_a_payment_lets_keys_run_at_once(credit, stripe, unpaid):
    let_days_pass(stripe, unpaid, 15)
    remind_of_invoices()
    assert PostpaidTerms.objects.get().paused_at is not None

    pay(stripe, unpaid)

    assert PostpaidTerms.objects.get().paused_at is None
    actions = AuditEvent.objects.order_by("seq").values_list("action", flat=True)
    assert list(actions)[-3:] == ["postpaid.pause", "invoice.remind", "postpaid.resume"]


def test_one_of_two_late_invoices_is_not_enough(credit, stripe, unpaid):
    use(credit)
    report()
    second = issue(stripe, at=read_clock())
    service.mirror_invoice(second)
    for invoice_id in (unpaid, second):
        let_days_pass(stripe, invoice_id, 15)

    pay(stripe, unpaid)
    assert PostpaidTerms.objects.get().paused_at is not None
    pay(stripe, second)
    assert PostpaidTerms.objects.get().paused_at is None


def test_who_paid_a_moment_ago_is_not_reminded(credit, stripe, unpaid):
    let_days_pass(stripe, unpaid, 20)
    PostpaidTerms.objects.update(paused_at=None)
    stripe.pay(unpaid, read_clock())

    remind_of_invoices()

    assert mail.outbox == []
    assert PostpaidTerms.objects.get().paused_at is None


def test_while_stripe_is_silent_nobody_is_reminded_or_paused(credit, stripe, unpaid):
    Invoice.objects.update(due_at=read_clock() - timedelta(days=20))
    stripe.lost_before["retrieve_invoice"] = 1

    assert remind_of_invoices() == 0

    assert PostpaidTerms.objects.get().paused_at is None


def test_after_a_long_silence_one_mail_tells_all(credit, stripe, unpaid):
    let_days_pass(stripe, unpaid, 8)

    assert remind_of_invoices() == 1

    assert [one.stage for one in InvoiceNotice.objects.all()] == ["second"]


@pytest.mark.parametrize("days", [1, 30])
def test_when_keys_pause_is_a_setting(credit, stripe, unpaid, settings, days):
    settings.POSTPAID_PAUSE_DAYS = days
    let_days_pass(stripe, unpaid, days - 0.1)
    assert PostpaidTerms.objects.get().paused_at is None
    let_days_pass(stripe, unpaid, days)
    assert PostpaidTerms.objects.get().paused_at is not None


def test_paused_keys_take_nothing_from_what_runs(credit, stripe, unpaid):
    running = hold(credit)
    let_days_pass(stripe, unpaid, 15)
    assert PostpaidTerms.objects.get().paused_at is not None

    assert settle(credit.item(running)) == ["settled"]


def test_stages_are_what_the_days_say():
    now = read_clock()
    days = {-1: None, 0: "due", 2.9: "due", 3: "first", 6.9: "first", 7: "second", 14: "paused"}

    found = {one: dunning.find_stage(now - timedelta(days=one), now) for one in days}

    assert found == days


# --- What the checks see ---


HARMS = {
    "reports-equal-usage": "UPDATE billing_meterreport SET usage_nanos = usage_nanos + 1",
    "reports-equal-usage (value)": "UPDATE billing_meterreport SET value_micro = value_micro + 1",
    "reports-equal-usage (none)": "DELETE FROM billing_meteredtransfer",
    "receivable-equals-usage-less-payments": "UPDATE billing_ledgeraccount"
    " SET posted_nanos = posted_nanos + 1 WHERE kind = 'receivable'",
    "receivable-equals-usage-less-payments (usage)": "DELETE FROM billing_usageevent",
    "invoices-are-booked": "UPDATE billing_invoice SET total_cents = total_cents + 1",
    "invoices-are-booked (tax)": "UPDATE billing_invoice SET tax_cents = tax_cents + 1",
    "invoices-are-booked (none)": "UPDATE billing_transfer SET idempotency_key = 'x'"
    " WHERE kind = 'invoice_paid'",
    "invoices-are-booked (unknown)": "UPDATE billing_invoice SET booked_at = NULL",
}


@pytest.mark.parametrize("harm", HARMS)
def test_each_check_finds_its_harm(credit, stripe, harm):
    use(credit)
    report()
    pay(stripe, issue(stripe))
    assert broken() == set()

    tables = ("meterreport", "meteredtransfer", "usageevent", "transfer")
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"ALTER TABLE billing_{table} DISABLE TRIGGER USER")
        cursor.execute(HARMS[harm])
        for table in tables:
            cursor.execute(f"ALTER TABLE billing_{table} ENABLE TRIGGER USER")

    assert harm.partition(" ")[0] in broken()


def test_a_late_hour_does_not_break_the_books(credit, stripe):
    """Between two periods: what is reported counts where Stripe counts it."""
    use(credit)
    report()
    pay(stripe, issue(stripe, at=this_hour() - HOUR))
    use(credit)
    report()

    assert LedgerAccount.objects.get(kind="receivable").owed_nanos == MANY * PRICE_NANOS
    assert sum(value for _, _, value in stripe.events.values()) == 1_001_000
    (period,) = stripe.subscriptions.values()
    counted = stripe.count(period.customer, period.current_period_start, read_clock() + HOUR)
    assert counted == 500_500
    assert broken() == set()
