"""Any order of usage on credit, reports, invoices and payments keeps the books and the count right.

Beside `test_money_machine.py`, and for the same reason: a model of a few integers says by itself
what each ledger account, each invoice and the count at Stripe must be. Stripe's meters are in
memory here, with failures at exact moments, and so is the time: months pass in a step. It is
what the database's clock says, for bookings as for services.

All of it is one transaction that is never over. What the sealing of an hour asks of transactions
is answered as if each step had ended its own; `tests/billing/test_meter.py` has that part.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.models import (
    Invoice,
    LedgerAccount,
    MeterReport,
    MeterSeal,
    PostpaidTerms,
    UsageEvent,
    UsageReversal,
)
from billing.services import dunning, ledger, meter, postpaid
from billing.services import invoice as invoices
from billing.services.reversal import reverse_usage
from marketplace.core.errors import ConflictError
from marketplace.core.ids import new_id, to_public
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, SHARE_BPS, Shop, asked, reserve, settle
from tests.billing.conftest import shop as shop  # noqa: PLC0414 - a fixture
from tests.billing.lock_order import whole_history
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import agree, install, this_hour
from tests.billing.test_ledger import broken, record_answer

CENT = 10_000_000
TAX_PERCENT = 19
DUE_DAYS = PAUSE_DAYS = 14
LIMIT_NANOS = 2_000 * CENT
LOST = ("", "", "lost_before", "lost_after")
PICK = st.integers(0, 1_000)


class Postpaid(RuleBasedStateMachine):
    """One account on credit, and Stripe."""

    base: ClassVar[Shop]
    admin: ClassVar[Actor]
    patch: ClassVar[pytest.MonkeyPatch]

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = whole_history()
        self.savepoint.__enter__()
        # Not at the full hour: what is used now is of an hour that is not over.
        self.now = this_hour() + timedelta(minutes=10)
        self.stripe = MeteredStripe(now=self.now, tax_percent=TAX_PERCENT)
        install(self.patch, self.stripe)
        for name, module in list(sys.modules.items()):
            if name.startswith("billing.") and hasattr(module, "read_clock"):
                self.patch.setattr(module, "read_clock", lambda: self.now)
        # The model.
        self.sheet: Counter[str] = Counter()
        self.sales: list[tuple[UUID, str, int]] = []
        self.reversed: set[UUID] = set()
        self.waiting: Counter[datetime] = Counter()
        self.net_nanos = self.total_nanos = 0
        self.known: dict[str, str] = {}
        self.billed_micro: dict[str, int] = {}
        self.limit_nanos = 0
        self.is_paused = False
        self.state = ""
        try:
            self.begin()
        except BaseException:
            self.leave()
            raise

    @property
    def drafts(self) -> list[str]:
        return [one.id for one in self.stripe.invoices.values() if one.status == "draft"]

    @property
    def carried_nanos(self) -> int:
        return self.total_nanos - self.net_nanos

    def move(self, **amounts: int) -> None:
        assert sum(amounts.values()) == 0
        self.sheet.update(amounts)

    # --- Terms

    @precondition(lambda self: self.state in ("", "closed"))
    @rule()
    def begin(self) -> None:
        self.stripe.now = self.now
        self.terms = agree(self.base, self.admin.user, LIMIT_NANOS)
        self.limit_nanos, self.state = LIMIT_NANOS, "active"

    @precondition(lambda self: self.state == "active")
    @rule(cents=st.integers(1_000, 2_000))
    def change_limit(self, cents: int) -> None:
        postpaid.change_terms(
            self.admin, self.terms, limit_nanos=cents * CENT, due_days=DUE_DAYS, reason="Anew."
        )
        self.limit_nanos = cents * CENT

    @precondition(lambda self: self.state == "active")
    @rule()
    def close(self) -> None:
        postpaid.close_terms(Actor(), self.terms)
        self.state = "closing"

    @rule()
    def advance(self) -> None:
        """Goes on with an end: the last invoice, and then what is left."""
        self.stripe.now = self.now
        was = self.terms.state
        postpaid.advance_postpaid()
        self.terms.refresh_from_db()
        if was == "closing" and self.terms.state == "closed":
            self.state, self.is_paused = "closed", False
            self.know_return()
            # What is less than Stripe can count is let go of.
            left_nanos = -self.sheet["receivable"] - self.stripe.carried[self.customer] * CENT
            assert abs(left_nanos) < 1_000
            self.move(receivable=left_nanos, rounding=-left_nanos)
        elif self.state == "closed":
            self.know_return()

    def know_return(self) -> None:
        """Credit that no usage will make up for goes to the wallet."""
        nanos = max(0, min(self.carried_nanos, self.sheet["receivable"]))
        self.move(receivable=-nanos, wallet=nanos)
        self.net_nanos += nanos

    @property
    def customer(self) -> str:
        [customer] = self.stripe.customers.values()
        return customer

    # --- Usage

    @rule(units=st.sampled_from([1, 7, 60_001, 333_333, 500_000, 3_000_000]))
    def use(self, units: int) -> None:
        gross_nanos = units * PRICE_NANOS
        kind = "receivable" if self.state == "active" else "wallet"
        free_nanos = self.sheet[kind] + (self.limit_nanos if kind == "receivable" else 0)

        ((hold_id, _, outcome),) = reserve(asked(self.base.consumer.pk, gross_nanos))

        if free_nanos < gross_nanos:
            assert outcome == "insufficient_credit"
            return
        assert outcome == "held"
        record_answer(self.base, hold_id)
        item = self.base.item(hold_id, units=units, gross_nanos=gross_nanos)
        assert settle(item) == ["settled"]
        assert settle(item) == ["repeated"]
        self.date(UsageEvent.objects.get(pk=hold_id).transfer_id)
        part_nanos = gross_nanos * SHARE_BPS // 10_000
        rest_nanos = gross_nanos - part_nanos
        self.move(**{kind: -gross_nanos}, creator_reserve=part_nanos, platform_revenue=rest_nanos)
        self.sales.append((hold_id, kind, gross_nanos))
        if kind == "receivable":
            self.waiting[self.hour] += gross_nanos

    @precondition(lambda self: self.sales)
    @rule(pick=PICK, percent=st.integers(1, 100))
    def give_back(self, pick: int, percent: int) -> None:
        prediction_id, kind, gross_nanos = self.sales[pick % len(self.sales)]
        nanos = max(1, gross_nanos * percent // 100)
        try:
            reverse_usage(self.admin, to_public(prediction_id), reason="Noise.", gross_nanos=nanos)
        except ConflictError:
            assert prediction_id in self.reversed
            return
        assert prediction_id not in self.reversed
        self.reversed.add(prediction_id)
        self.date(UsageReversal.objects.get(prediction_id=prediction_id).transfer_id)
        part_nanos = (gross_nanos * SHARE_BPS // 10_000) * nanos // gross_nanos
        self.move(**{kind: nanos}, creator_reserve=-part_nanos, platform_revenue=part_nanos - nanos)
        if kind == "receivable":
            self.waiting[self.hour] -= nanos

    @property
    def hour(self) -> datetime:
        return self.now.replace(minute=0)

    def date(self, transfer_id: Any) -> None:
        """Booked now, as the clock here has it."""
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER USER")
            cursor.execute(
                "UPDATE billing_transfer SET created_at = %s WHERE id = %s",
                [self.now, transfer_id],
            )
            cursor.execute("ALTER TABLE billing_transfer ENABLE TRIGGER USER")

    # --- Time

    @rule(hours=st.integers(1, 5))
    def let_hours_pass(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(days=st.sampled_from([1, 8, 15]))
    def let_days_pass(self, days: int) -> None:
        """The workers ran meanwhile, and found nothing new after the first hour."""
        self.let_hours_pass(1)
        self.report("")
        self.now += timedelta(days=days)
        hour = self.hour - timedelta(hours=1)
        MeterSeal.objects.create(
            hour=hour, barrier_transaction=1, mark_transaction=0, sealed_at=self.now
        )
        self.let_stripe_forget()

    @rule()
    def let_a_day_pass_in_which_nobody_works(self) -> None:
        self.now += timedelta(hours=25)
        self.let_stripe_forget()

    def let_stripe_forget(self) -> None:
        """It knows identifiers for a day."""
        self.stripe.events = {
            name if name.startswith("forgotten:") else f"forgotten:{name}": event
            for name, event in self.stripe.events.items()
        }

    # --- Reports

    @rule(lost=st.sampled_from(LOST))
    def report(self, lost: str) -> None:
        while meter.seal_hours():
            pass
        self.know_sealed()
        if lost:
            getattr(self.stripe, lost)["send_meter_event"] = 1
        meter.send_reports()
        self.stripe.lost_before.clear()
        self.stripe.lost_after.clear()
        if lost:
            return
        meter.send_reports()
        assert not MeterReport.objects.filter(state__in=["new", "sent", "unclear"]).exists()
        counted = sum(value for _, _, value in self.stripe.events.values())
        assert counted == self.total_nanos // 1_000

    def know_sealed(self) -> None:
        """Hour by hour; what Stripe has counted once stays counted."""
        for hour in sorted(hour for hour in self.waiting if hour < self.hour):
            self.net_nanos += self.waiting.pop(hour)
            self.total_nanos = max(self.total_nanos, self.net_nanos)

    # --- Invoices

    @precondition(lambda self: self.state == "active" and not self.drafts)
    @rule()
    def end_the_month(self) -> None:
        self.let_hours_pass(1)
        self.stripe.end_period(self.terms.subscription_id, self.now)

    @precondition(lambda self: self.drafts)
    @rule()
    def make_it_final(self) -> None:
        """Within its hour of grace we hear of it, and send what is left."""
        invoice_id = self.drafts[0]
        self.report("")
        self.hear(len(self.stripe.invoices) - 1)
        self.let_hours_pass(1)
        final = self.stripe.finalize(invoice_id, self.now)
        self.billed_micro[invoice_id] = final.lines[0].quantity or 0

    @precondition(lambda self: any(one.status == "open" for one in self.stripe.invoices.values()))
    @rule(pick=PICK)
    def pay(self, pick: int) -> None:
        unpaid = [one.id for one in self.stripe.invoices.values() if one.status == "open"]
        self.stripe.pay(unpaid[pick % len(unpaid)], self.now)

    @precondition(lambda self: self.stripe.invoices)
    @rule(pick=PICK)
    def hear(self, pick: int) -> None:
        """Webhooks of an invoice, of those before it too, and twice."""
        ids = list(self.stripe.invoices)
        for invoice_id in ids[: pick % len(ids) + 1]:
            for _ in range(2):
                assert invoices.look_at_invoice(invoice_id) == self.is_of_use(invoice_id)
            self.know_invoice(invoice_id)
        self.know_flushed()

    def is_of_use(self, invoice_id: str) -> bool:
        """Not one for nothing that we never heard of before credit began anew."""
        one = self.stripe.invoices[invoice_id]
        is_new = one.subscription_id == self.terms.subscription_id
        assert is_new or invoice_id in self.known or one.total == 0
        return is_new or invoice_id in self.known

    @rule()
    def poll(self) -> None:
        is_asked = self.state in ("active", "closing")
        invoices.poll_invoices()
        for invoice_id in self.stripe.invoices:
            if is_asked or invoice_id in self.known:
                self.know_invoice(invoice_id)
        self.know_flushed()

    @rule()
    def remind(self) -> None:
        late = [
            one
            for one in self.stripe.invoices.values()
            if self.known.get(one.id) == "open" and self.due_at(one) <= self.now
        ]
        dunning.remind_of_invoices()
        for one in late:
            self.know_invoice(one.id)

    def know_flushed(self) -> None:
        """Whoever hears of a draft seals and sends at once."""
        if MeterSeal.objects.filter(hour__gte=self.hour - timedelta(hours=1)).exists():
            self.know_sealed()

    def due_at(self, one: Any) -> datetime:
        assert one.finalized_at is not None
        return one.finalized_at + timedelta(days=DUE_DAYS)

    def know_invoice(self, invoice_id: str) -> None:
        if not self.is_of_use(invoice_id):
            return
        one = self.stripe.invoices[invoice_id]
        was, self.known[invoice_id] = self.known.get(invoice_id), one.status or ""
        if one.status == "paid" and was != "paid":
            billed_nanos = self.billed_micro[invoice_id] * 1_000
            self.move(
                stripe_clearing=-one.amount_paid * CENT,
                receivable=billed_nanos - (one.total - one.amount_paid) * CENT,
                tax_payable=one.tax * CENT,
                rounding=one.subtotal * CENT - billed_nanos,
            )
        if self.state == "closed":
            return
        self.is_paused = any(
            state == "open"
            and self.due_at(self.stripe.invoices[name]) + timedelta(days=PAUSE_DAYS) <= self.now
            for name, state in self.known.items()
        )

    # --- What must be true

    @invariant()
    def books_are_right(self) -> None:
        found: Counter[str] = Counter()
        for row in LedgerAccount.objects.all():
            found[row.kind] += row.posted_nanos
            assert row.held_nanos == 0
        assert +found == +self.sheet
        assert -found == -self.sheet
        self.terms.refresh_from_db()
        assert self.terms.state == self.state
        assert (self.terms.paused_at is not None) == self.is_paused
        for row in Invoice.objects.all():
            is_booked = self.known[row.stripe_id] == "paid"
            assert (row.state, row.booked_at is not None) == (self.known[row.stripe_id], is_booked)
            assert row.check_state == ("agrees" if row.state in ("open", "paid") else "waiting")
        assert broken() == set()

    def finish(self) -> None:
        """Credit ends, all is reported, invoiced and paid: nothing is owed but what is carried."""
        if self.state == "active":
            self.close()
        for _ in range(4):
            self.let_hours_pass(2)
            self.report("")
            while self.drafts:
                self.make_it_final()
            while any(one.status == "open" for one in self.stripe.invoices.values()):
                self.pay(0)
            self.poll()
            self.advance()
            self.books_are_right()
        assert self.state == "closed"
        assert self.sheet["receivable"] == -self.stripe.carried[self.customer] * CENT
        paid = sum(one.amount_paid for one in self.stripe.invoices.values())
        assert self.sheet["stripe_clearing"] == -paid * CENT

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.leave()

    def leave(self) -> None:
        """As if nothing had been."""
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)


@pytest.fixture
def machine(
    shop: Shop, settings: Any, monkeypatch: pytest.MonkeyPatch, platform_admin: User
) -> type[Postpaid]:
    settings.POSTPAID_PAUSE_DAYS = PAUSE_DAYS
    read_next = meter.read_next_transaction
    monkeypatch.setattr(meter, "read_next_transaction", lambda: read_next() + 1)
    monkeypatch.setattr(meter, "read_oldest_transaction", lambda: 2**62)
    monkeypatch.setattr(meter, "find_next_mark", lambda window: 0)
    members = {"base": shop, "admin": Actor(user=platform_admin), "patch": monkeypatch}
    return type("Machine", (Postpaid,), members)


@pytest.mark.django_db
def test_postpaid(machine: type[Postpaid]) -> None:
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=4,
            stateful_step_count=24,
            derandomize=True,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- The same rules by hand ---------------------------------------------------------

Step = Callable[[Postpaid], Any]
INVOICED: tuple[Step, ...] = (
    lambda one: one.use(500_000),
    lambda one: one.end_the_month(),
    lambda one: one.make_it_final(),
    lambda one: one.poll(),
)
HISTORIES: dict[str, tuple[Step, ...]] = {
    "invoiced and paid": (
        *INVOICED,
        lambda one: one.pay(0),
        lambda one: one.hear(0),
        lambda one: one.hear(0),
    ),
    "late, paused and resumed": (
        *INVOICED,
        lambda one: one.let_days_pass(15),
        lambda one: one.remind(),
        lambda one: one.let_days_pass(15),
        lambda one: one.remind(),
        lambda one: one.pay(0),
        lambda one: one.hear(0),
    ),
    "a report whose answer is lost": (
        lambda one: one.use(7),
        lambda one: one.let_hours_pass(2),
        lambda one: one.report("lost_after"),
        lambda one: one.report(""),
    ),
    "a report that is lost for days": (
        lambda one: one.use(7),
        lambda one: one.let_hours_pass(1),
        lambda one: one.report("lost_after"),
        lambda one: one.let_a_day_pass_in_which_nobody_works(),
        lambda one: one.report(""),
    ),
    "too little to be counted": (
        lambda one: one.use(1),
        lambda one: one.let_hours_pass(1),
        lambda one: one.report(""),
        lambda one: one.use(7),
        lambda one: one.let_hours_pass(1),
        lambda one: one.report(""),
    ),
    "given back and ended": (
        *INVOICED,
        lambda one: one.give_back(0, 100),
        lambda one: one.close(),
    ),
    "carried to the next": (
        lambda one: one.use(60_001),
        lambda one: one.end_the_month(),
        lambda one: one.make_it_final(),
        lambda one: one.poll(),
        *INVOICED,
    ),
    "limited": (
        lambda one: one.change_limit(1_000),
        *(lambda one: one.use(3_000_000),) * 4,
        lambda one: one.use(7),
    ),
}


def act(machine: type[Postpaid], history: str) -> None:
    one = machine()
    try:
        one.books_are_right()
        for step in HISTORIES[history]:
            step(one)
            one.books_are_right()
        one.finish()
    finally:
        one.leave()


@pytest.mark.django_db
@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_that_is_right_raises_no_alarm(machine: type[Postpaid], history: str) -> None:
    act(machine, history)


# --- What is broken on purpose -------------------------------------------------------


def book_twice(patch: pytest.MonkeyPatch) -> None:
    book, post = invoices._book, ledger.post_transfer

    def call(row: Invoice) -> None:
        book(row)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                ledger,
                "post_transfer",
                lambda **more: post(**more | {"idempotency_key": f"again:{new_id()}"}),
            )
            book(row)

    patch.setattr(invoices, "_book", call)


def bill_what_went_back(patch: pytest.MonkeyPatch) -> None:
    listed = meter.list_unreported
    patch.setattr(
        meter,
        "list_unreported",
        lambda window: [
            replace(one, reversed_nanos=0) for one in listed(window) if one.predictions
        ],
    )


def draw_identifiers(patch: pytest.MonkeyPatch) -> None:
    send = MeteredStripe.send_meter_event
    patch.setattr(
        MeteredStripe,
        "send_meter_event",
        lambda self, **values: send(self, **values | {"identifier": str(new_id())}),
    )


def round_each_report(patch: pytest.MonkeyPatch) -> None:
    send = MeteredStripe.send_meter_event

    def round_up(self: MeteredStripe, **values: Any) -> bool:
        report = MeterReport.objects.get(identifier=values["identifier"])
        return send(self, **values | {"value": -(-report.usage_nanos // 1_000)})

    patch.setattr(MeteredStripe, "send_meter_event", round_up)


def pause_for_good(patch: pytest.MonkeyPatch) -> None:
    update = invoices.update_pause

    def pause(terms: PostpaidTerms) -> None:
        if terms.paused_at is None:
            update(terms)

    patch.setattr(invoices, "update_pause", pause)


CONTROLS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], Any]]] = {
    "a payment is booked twice": ("invoiced and paid", book_twice),
    "a payment is not booked": (
        "invoiced and paid",
        lambda patch: patch.setattr(invoices, "_book", lambda row: None),
    ),
    "what went back is billed": ("given back and ended", bill_what_went_back),
    "a report's identifier is random": ("a report whose answer is lost", draw_identifiers),
    "a report is sent blindly after days": (
        "a report that is lost for days",
        lambda patch: patch.setattr(meter, "BLIND_RETRY_MAX", timedelta(days=9)),
    ),
    "each report is rounded up": ("too little to be counted", round_each_report),
    "nobody is paused": (
        "late, paused and resumed",
        lambda patch: patch.setattr(invoices, "update_pause", lambda terms: None),
    ),
    "a payment lets nobody run again": ("late, paused and resumed", pause_for_good),
    "what is carried is forgotten at the end": (
        "given back and ended",
        lambda patch: patch.setattr(postpaid, "return_credit", lambda account_id: 0),
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize("control", CONTROLS)
def test_the_machine_notices(
    machine: type[Postpaid], monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    history, damage = CONTROLS[control]
    damage(monkeypatch)

    # The database's own guards refuse some of them.
    with pytest.raises((AssertionError, DatabaseError)):
        act(machine, history)
