"""Invoices that were given up, here and at Stripe: compared, told, and paid after all."""

from __future__ import annotations

import pytest

from billing.models import Adjustment, Invoice, Transfer
from billing.services import adjustment as adjustments
from billing.services import write_off
from billing.services.invoice import mirror_invoice
from billing.services.stripe_client import get_stripe
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop
from tests.billing.reconciliation.reconciling import compare
from tests.billing.reconciliation.test_objects import (
    Explanation,
    assert_clean,
    found,
    make_month,
)
from tests.billing.stripe_client.test_postpaid import save_card

pytestmark = pytest.mark.django_db


@pytest.fixture
def unpaid(fake, shop: Shop) -> Invoice:
    make_month(fake, shop, has_card=False)
    row = Invoice.objects.get()
    assert (row.state, row.check_state, row.due_cents) == ("open", "agrees", 500)
    return row


def propose(admin: Actor, row: Invoice) -> Adjustment:
    return adjustments.propose_write_off(admin, row, reason="They are bankrupt.")


def pay(row: Invoice) -> None:
    """Somebody pays it after all."""
    customer_id = get_stripe().retrieve_invoice(row.stripe_id).customer or ""
    card = save_card(get_stripe(), customer_id, "4242424242424242")
    get_stripe().set_default_card(
        customer_id=customer_id, payment_method_id=card.id, idempotency_key="later"
    )
    get_stripe().pay_invoice(row.stripe_id, idempotency_key="later:pay")


def test_both_sides_agree_about_one(fake, unpaid: Invoice, admin: Actor) -> None:
    assert propose(admin, unpaid).state == "posted"

    assert get_stripe().retrieve_invoice(unpaid.stripe_id).status == "uncollectible"
    run = compare()
    assert_clean(run)
    assert not found("invoice")


def test_one_that_stripe_was_not_told_of_is_explained_and_told(
    fake, unpaid: Invoice, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adjustments, "try_to_tell_stripe", lambda row: None)
        propose(admin, unpaid)

    compare()
    assert found("invoice") == {Explanation.NOT_YET_APPLIED}
    compare(is_repairing=True)

    unpaid.refresh_from_db()
    assert unpaid.state == "uncollectible"
    assert_clean(compare())
    assert not found("invoice")


def test_what_stripe_gave_up_and_is_owed_here_is_an_alarm(
    fake, unpaid: Invoice, admin: Actor, settings
) -> None:
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 0
    get_stripe().mark_invoice_uncollectible(unpaid.stripe_id, idempotency_key="by hand")
    mirror_invoice(unpaid.stripe_id)

    assert compare().unexplained_count == 1
    assert found("invoice") == {Explanation.NONE}

    propose(admin, unpaid)
    assert compare().unexplained_count == 0
    assert found("invoice") == {Explanation.IN_FLIGHT}


def test_its_late_payment_is_booked_and_agrees(fake, unpaid: Invoice, admin: Actor) -> None:
    propose(admin, unpaid)
    pay(unpaid)

    compare()
    assert found("invoice") == {Explanation.NOT_YET_APPLIED}
    compare(is_repairing=True)

    assert Transfer.objects.filter(kind="recovery").count() == 1
    assert_clean(compare(is_repairing=True))
    assert not found("invoice") | found("movement")


def test_stripe_refuses_to_give_up_what_is_paid(fake, unpaid: Invoice, admin: Actor) -> None:
    row = propose(admin, unpaid)
    pay(unpaid)

    done = write_off.tell_stripe(unpaid)

    assert done is not None
    assert (done.state, done.booked_at is not None) == ("paid", True)
    assert Adjustment.objects.get().pk == row.pk


def test_control_without_the_comparison_stripe_would_go_on_asking(
    fake, unpaid: Invoice, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adjustments, "try_to_tell_stripe", lambda row: None)
    monkeypatch.setattr(
        "billing.services.reconciliation.invoices._check_write_off", lambda one, row: None
    )
    propose(admin, unpaid)

    compare(is_repairing=True)

    assert not found("invoice")
    assert get_stripe().retrieve_invoice(unpaid.stripe_id).status == "open"
