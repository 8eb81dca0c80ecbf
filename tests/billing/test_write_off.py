"""Invoices that nobody pays: given up by people, told to Stripe, and paid after all."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections
from django.test import Client

from billing.errors import StripeUnavailableError
from billing.models import Adjustment, Invoice, PostpaidTerms, Transfer, UsageEvent
from billing.selectors.meter import read_clock
from billing.services import adjustment as adjustments
from billing.services import invoice as invoices
from billing.services import postpaid, reversal, write_off
from marketplace.core import ids
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.models import AuditEvent, Membership, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, balances, query
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import agree, begin_earlier, broken, receivable
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture
from tests.billing.test_invoice import MANY, issue, pay, report, use
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

DEBT_NANOS = MANY * PRICE_NANOS


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def credit(shop: Shop, stripe: MeteredStripe, platform_admin: User, owner: User) -> Shop:
    Membership.objects.create(account=shop.consumer, user=owner, role="owner")
    begin_earlier(agree(shop, platform_admin), stripe, 6)
    return shop


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def second(shop: Shop) -> Actor:
    return Actor(user=UserFactory(email="second@example.com", is_staff=True))


@pytest.fixture
def unpaid(credit: Shop, stripe: MeteredStripe) -> Invoice:
    """An open invoice of 50 cents for 50.05 cents of usage, with 19 % of tax."""
    stripe.tax_percent = 19
    use(credit)
    report()
    found = invoices.mirror_invoice(issue(stripe))
    assert found is not None
    assert (found.state, found.due_cents) == ("open", 59)
    return found


def propose(actor: Actor, invoice: Invoice, reason: str = "They are bankrupt.") -> Adjustment:
    return adjustments.propose_write_off(actor, invoice, reason=reason)


def test_a_small_one_is_written_off_by_one_admin(unpaid, credit, stripe, admin):
    row = propose(admin, unpaid)

    assert (row.state, row.needs_two, row.amount_nanos) == ("posted", False, DEBT_NANOS)
    # The usage without its tax, which nobody owes before it is paid.
    entries = Transfer.objects.get(kind="write_off").entries
    assert sorted(entries.values_list("ledger_account__kind", "amount_nanos")) == [
        ("bad_debt", -DEBT_NANOS),
        ("receivable", DEBT_NANOS),
    ]
    assert receivable(credit).owed_nanos == 0
    unpaid.refresh_from_db()
    assert (unpaid.state, unpaid.written_off_nanos) == ("uncollectible", DEBT_NANOS)
    assert stripe.invoices[unpaid.stripe_id].status == "uncollectible"
    event = AuditEvent.objects.get(action="adjustment.propose")
    assert (event.account_id, event.payload["kind"]) == (credit.consumer.pk, "write_off")
    assert broken() == set()


def test_above_the_limit_a_second_admin_agrees_first(
    unpaid, credit, stripe, admin, second, settings
):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 50

    row = propose(admin, unpaid)

    assert (row.state, row.needs_two) == ("pending", True)
    assert receivable(credit).owed_nanos == DEBT_NANOS
    with pytest.raises(ForbiddenError):
        adjustments.approve(admin, row.pk)
    assert stripe.calls["mark_invoice_uncollectible"] == 0
    assert broken() == set()

    assert adjustments.approve(second, row.pk).state == "posted"
    assert adjustments.approve(second, row.pk).state == "posted"

    assert receivable(credit).owed_nanos == 0
    assert stripe.invoices[unpaid.stripe_id].status == "uncollectible"
    assert broken() == set()


def test_the_limit_itself_is_for_one(unpaid, admin, settings):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 51

    assert propose(admin, unpaid).needs_two is False


def test_a_late_payment_makes_up_for_the_loss(unpaid, credit, stripe, admin):
    propose(admin, unpaid)

    for _ in range(3):
        found = pay(stripe, unpaid.stripe_id)

    assert (found.state, found.booked_at is not None) == ("paid", True)
    recovery = Transfer.objects.get(kind="recovery")
    assert sorted(recovery.entries.values_list("ledger_account__kind", "amount_nanos")) == [
        ("bad_debt", DEBT_NANOS),
        ("rounding", -500_000),
        ("stripe_clearing", -590_000_000),
        ("tax_payable", 90_000_000),
    ]
    assert balances()["bad_debt"] == (0, 0)
    assert receivable(credit).posted_nanos == 0
    assert broken() == set()


def test_control_a_late_payment_of_a_debt_that_is_gone_would_be_noticed(
    unpaid, credit, stripe, admin, monkeypatch
):
    """Booked as any other payment, it would be credit that nobody bought."""
    propose(admin, unpaid)
    book = invoices._book

    def forget(invoice: Invoice) -> None:
        invoice.written_off_nanos = 0
        book(invoice)

    monkeypatch.setattr(invoices, "_book", forget)
    pay(stripe, unpaid.stripe_id)

    assert receivable(credit).posted_nanos == DEBT_NANOS
    assert "invoices-are-booked" in broken()


def test_what_was_paid_a_moment_ago_is_not_written_off(unpaid, credit, stripe, admin):
    stripe.pay(unpaid.stripe_id, read_clock())

    with pytest.raises(ConflictError):
        propose(admin, unpaid)

    assert not Adjustment.objects.exists()
    assert receivable(credit).posted_nanos == 0
    assert broken() == set()


def test_what_is_paid_before_the_second_agrees_is_not_written_off(
    unpaid, credit, stripe, admin, second, settings
):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 0
    row = propose(admin, unpaid)
    pay(stripe, unpaid.stripe_id)

    with pytest.raises(ConflictError):
        adjustments.approve(second, row.pk)

    row.refresh_from_db()
    assert row.state == "pending"
    assert adjustments.refuse(second, row.pk, reason="It was paid.").state == "refused"
    assert not Transfer.objects.filter(kind="write_off").exists()
    assert broken() == set()


def test_a_payment_that_stripe_has_first_is_a_recovery(unpaid, credit, stripe, admin):
    """Paid at Stripe after it was asked, and before it was told: it refuses, and we look."""
    mark = stripe.mark_invoice_uncollectible

    def paid_first(invoice_id: str, **values: Any) -> Any:
        stripe.pay(invoice_id, read_clock())
        return mark(invoice_id, **values)

    stripe.mark_invoice_uncollectible = paid_first  # type: ignore[method-assign]

    propose(admin, unpaid)

    unpaid.refresh_from_db()
    assert (unpaid.state, unpaid.booked_at is not None) == ("paid", True)
    assert Transfer.objects.filter(kind="recovery").count() == 1
    assert broken() == set()


def test_once_and_never_twice(unpaid, admin, second, settings):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 0
    row = propose(admin, unpaid)
    with pytest.raises(ConflictError):
        propose(second, unpaid)
    adjustments.refuse(second, row.pk, reason="Not yet.")

    again = propose(second, unpaid)
    adjustments.approve(admin, again.pk)

    with pytest.raises(ConflictError):
        propose(admin, unpaid)
    assert Transfer.objects.filter(kind="write_off").count() == 1


def test_many_at_the_same_time_are_one(unpaid, admin):
    outcomes: list[str] = []

    def run() -> None:
        try:
            propose(admin, unpaid)
            outcomes.append("done")
        except ConflictError:
            outcomes.append("conflict")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["conflict"] * 5 + ["done"]
    assert broken() == set()


def test_control_without_looking_the_unique_index_stops_the_second(
    unpaid, admin, monkeypatch, settings
):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 0
    propose(admin, unpaid)
    monkeypatch.setattr(adjustments, "_require_no_other", lambda invoice: None)

    with pytest.raises(IntegrityError):
        propose(admin, unpaid)


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
def test_stripe_is_told_later_where_it_did_not_answer(unpaid, stripe, admin, lost):
    getattr(stripe, lost)["mark_invoice_uncollectible"] = 1

    assert propose(admin, unpaid).state == "posted"
    unpaid.refresh_from_db()
    assert (unpaid.state, unpaid.written_off_nanos) == ("open", DEBT_NANOS)

    assert write_off.send_write_offs() == 1
    assert write_off.send_write_offs() == 0

    unpaid.refresh_from_db()
    assert unpaid.state == "uncollectible"
    assert stripe.invoices[unpaid.stripe_id].status == "uncollectible"
    assert broken() == set()


def test_while_stripe_does_not_say_whether_it_was_paid_nothing_is_written_off(
    unpaid, credit, stripe, admin
):
    stripe.lost_before["retrieve_invoice"] = 1

    with pytest.raises(StripeUnavailableError):
        propose(admin, unpaid)

    assert receivable(credit).owed_nanos == DEBT_NANOS
    assert not Adjustment.objects.exists()


def test_only_admins_do_it_and_say_why(unpaid, stripe, admin, owner):
    with pytest.raises(ForbiddenError):
        propose(Actor(user=owner), unpaid)
    for reason in ("", "  ", "x" * 2_001):
        with pytest.raises(InvalidInputError):
            propose(admin, unpaid, reason=reason)
    assert stripe.calls["mark_invoice_uncollectible"] == 0


def test_one_that_does_not_come_to_what_was_used_is_decided_first(credit, stripe, admin):
    use(credit)
    report()
    found = invoices.mirror_invoice(issue(stripe, wrong_cents=7))
    assert found is not None
    assert found.check_state == "differs"

    with pytest.raises(ConflictError):
        propose(admin, found)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE billing_adjustment SET invoice_id = NULL",
        # Posted, with somebody else's transfer.
        """UPDATE billing_adjustment SET state = 'posted', decided_by_id = created_by_id,
            transfer_id = (SELECT id FROM billing_transfer WHERE kind = 'usage' LIMIT 1),
            decided_at = now()""",
    ],
)
def test_the_database_holds_what_was_proposed(unpaid, admin, settings, harm):
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 0
    propose(admin, unpaid)

    with pytest.raises(DatabaseError):
        query(harm)


def test_the_poll_finds_a_late_payment_that_nobody_told_of(unpaid, stripe, admin):
    propose(admin, unpaid)
    stripe.pay(unpaid.stripe_id, read_clock())

    invoices.poll_invoices()

    assert Transfer.objects.filter(kind="recovery").count() == 1
    assert broken() == set()


def test_the_keys_stay_paused_until_it_is_paid(unpaid, credit, stripe, admin):
    found = stripe.invoices[unpaid.stripe_id]
    late = read_clock() - timedelta(days=60)
    stripe.invoices[unpaid.stripe_id] = type(found)(**{**_fields(found), "due_at": late})
    propose(admin, unpaid)
    terms = PostpaidTerms.objects.get()
    assert terms.paused_at is not None

    pay(stripe, unpaid.stripe_id)

    terms.refresh_from_db()
    assert terms.paused_at is None


def test_the_terms_can_end_without_it(unpaid, credit, stripe, admin):
    postpaid.close_terms(admin, PostpaidTerms.objects.get(), reason="It does not pay.")
    end_terms(stripe)
    assert PostpaidTerms.objects.get().state == "closing"

    propose(admin, unpaid)
    end_terms(stripe)

    assert PostpaidTerms.objects.get().state == "closed"
    assert broken() == set()


def test_what_was_given_back_of_it_makes_up_for_the_loss(credit, stripe, admin):
    """Never paid for, so that it is no credit to spend."""
    use(credit)
    report()
    found = invoices.mirror_invoice(issue(stripe))
    assert found is not None
    propose(admin, found)
    (event,) = UsageEvent.objects.all()
    reversal.reverse_usage(admin, ids.to_public(event.pk), reason="The model was wrong.")
    report()
    postpaid.close_terms(admin, PostpaidTerms.objects.get(), reason="It does not pay.")

    end_terms(stripe)

    assert PostpaidTerms.objects.get().state == "closed"
    assert balances()["wallet"] == (0, 0)
    assert broken() == set()


def end_terms(stripe: MeteredStripe) -> None:
    """As often as it takes: reports, the end of the subscription, its last invoice."""
    for _ in range(3):
        report()
        postpaid.advance_postpaid()
        for one in list(stripe.invoices.values()):
            if one.status == "draft":
                stripe.finalize(one.id, read_clock())
            invoices.mirror_invoice(one.id)


def _fields(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


# --- Where people see it ---


def test_the_invoice_says_so(unpaid, admin, owner):
    client = Client()
    client.force_login(owner)
    propose(admin, unpaid)

    page = client.get(f"/console/invoices/{unpaid.pk}").content.decode()

    assert "was written off on" in page
    assert "$0.5005" in page
    assert "Pay on Stripe" in page


def test_admins_write_off_on_a_page_with_a_reason(unpaid, admin, second):
    client = Client()
    assert admin.user is not None
    admin.user.is_superuser = True
    admin.user.save()
    client.force_login(admin.user)
    chosen = {"action": "write_off", "_selected_action": [str(unpaid.pk)]}

    page = client.post("/admin/billing/invoice/", chosen)
    assert b"becomes the platform" in page.content
    assert not Adjustment.objects.exists()
    client.post("/admin/billing/invoice/", {**chosen, "confirmed": "1", "reason": "Bankrupt."})

    assert Adjustment.objects.get().reason == "Bankrupt."
    page = client.get("/platform/adjustments?kind=write_off")
    assert b"Write-off" in page.content
