"""A bank takes the payment of an invoice back: frozen, held, won or lost; and Stripe agrees."""

from __future__ import annotations

import pytest

from billing.models import (
    AccountFreeze,
    Dispute,
    Invoice,
    LedgerAccount,
    PayoutHold,
    ReviewSignal,
    Topup,
    Transfer,
)
from billing.selectors import prepaid_invariants
from billing.services import dispute, ledger
from billing.services.dispute import poll_disputes, settle_dispute
from marketplace.core.errors import ConflictError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from tests.billing.conftest import Shop
from tests.billing.reconciliation.reconciling import compare, spoil
from tests.billing.reconciliation.test_objects import (
    Month,
    assert_clean,
    found,
    month,
    spoil_reports,
)
from tests.billing.test_ledger import broken
from tests.fakestripe.process import FakeStripeProcess

__all__ = ["month"]
pytestmark = pytest.mark.django_db

FEE = 1_500
CHECKS = {one.name for one in prepaid_invariants.PREPAID_INVARIANTS}


def fund(shop: Shop, cents: int) -> None:
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.PROMO_POOL)
    nanos = cents * NANOS_PER_CENT
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.PROMO,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={clearing_id: -nanos, shop.wallet_id: nanos},
    )


def cents(kind: str) -> int:
    row = LedgerAccount.objects.filter(kind=kind).first()
    return row.posted_nanos // NANOS_PER_CENT if row else 0


def complain(fake: FakeStripeProcess, **body: object) -> str:
    """The cardholder disputes the payment of the invoice."""
    (charge,) = fake.state()["objects"]["charge"]
    return str(fake.order(f"charges/{charge['id']}/dispute", **body)["id"])


def test_it_freezes_and_takes_what_the_wallet_has(fake, month: Month, shop: Shop) -> None:
    fund(shop, 200)
    before = cents("stripe_clearing")

    dispute_id = complain(fake)
    for _ in range(3):
        assert settle_dispute(dispute_id)

    row = Dispute.objects.get()
    assert (row.topup, row.invoice) == (None, Invoice.objects.get())
    assert (row.amount_cents, row.withdrawn_cents, row.fee_cents) == (500, 500, FEE)
    assert AccountFreeze.objects.filter(account=shop.consumer, lifted_at=None).exists()
    assert PayoutHold.objects.filter(account=shop.consumer).exists()
    assert ReviewSignal.objects.get().evidence["invoice"] == str(row.invoice)
    assert (cents("wallet"), cents("dispute_hold"), cents("dispute_loss")) == (0, 0, -300)
    assert cents("stripe_clearing") == before + 500 + FEE
    assert not broken() & CHECKS
    assert_clean(compare())


def test_an_inquiry_holds(fake, month: Month, shop: Shop) -> None:
    fund(shop, 700)

    settle_dispute(complain(fake, is_inquiry=True))

    assert (cents("wallet"), cents("dispute_hold"), cents("dispute_loss")) == (200, 500, 0)
    assert not broken() & CHECKS


@pytest.mark.parametrize("status", ["won", "lost"])
def test_its_end(fake, month: Month, shop: Shop, status: str) -> None:
    fund(shop, 200)
    dispute_id = complain(fake)
    settle_dispute(dispute_id)
    fake.order(f"disputes/{dispute_id}/close", status=status)

    for _ in range(2):
        settle_dispute(dispute_id)

    shop.consumer.refresh_from_db()
    assert (shop.consumer.frozen_at is None) == (status == "won")
    assert (cents("wallet"), cents("dispute_loss")) == ((200, 0) if status == "won" else (0, -300))
    assert not broken() & CHECKS
    assert_clean(compare())


def test_its_tax_is_owed_to_nobody(fake, month: Month, shop: Shop) -> None:
    """As of an invoice of 420 cents with 80 of tax."""
    tax_nanos = 80 * NANOS_PER_CENT
    tax_id = ledger.get_ledger_account_id(LedgerAccount.Kind.TAX_PAYABLE)
    receivable_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.RECEIVABLE, holder_id=shop.consumer.pk
    )
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.INVOICE_PAID,
        idempotency_key="test:tax",
        amounts_nanos={receivable_id: -tax_nanos, tax_id: tax_nanos},
    )
    Invoice.objects.update(tax_cents=80)
    row = Invoice.objects.get()
    payment = dispute.Payment(row.account_id, None, row)
    known = dispute.get_stripe().retrieve_dispute(complain(fake, amount=250))

    made = dispute._lock_row(known, payment)
    dispute._book(made, known)

    assert made.tax_cents == 40
    assert (cents("tax_payable"), cents("dispute_loss")) == (40, -210)
    assert not broken() & {"dispute-holds-match"}


def test_the_poll_finds_it_and_so_does_the_comparison(fake, month: Month) -> None:
    complain(fake)
    fake.order("clock", offset_s=0)
    assert not Dispute.objects.exists()

    assert poll_disputes() == 1

    assert Dispute.objects.get().state == "open"


def test_the_comparison_repairs_one_that_nobody_told_of(fake, month: Month) -> None:
    complain(fake)

    compare()
    assert found("dispute") == {"not_yet_applied"}
    compare(is_repairing=True)

    assert Dispute.objects.get().state == "open"
    assert_clean(compare())


def test_one_of_an_invoice_that_was_set_aside_waits(fake, month: Month) -> None:
    spoil_reports("UPDATE billing_meterreport SET value_micro = value_micro + 9000000")
    spoil("UPDATE billing_invoice SET booked_at = NULL")
    dispute_id = complain(fake)

    with pytest.raises(ConflictError):
        settle_dispute(dispute_id)

    assert not Dispute.objects.exists()


def test_a_payment_of_others_is_none_of_ours(fake, month: Month) -> None:
    dispute_id = complain(fake)
    Invoice.objects.all().delete()
    month.terms.delete()

    assert settle_dispute(dispute_id) is False
    assert not Dispute.objects.exists()
    assert not Topup.objects.exists()


def test_control_without_it_the_money_that_is_gone_is_unexplained(
    fake, month: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: only disputes of top-ups were looked after."""
    complain(fake)
    monkeypatch.setattr(dispute, "_find_payment", lambda known: None)

    run = compare(is_repairing=True)

    assert not Dispute.objects.exists()
    assert run.repaired_count == 0
    assert found("movement") == {"not_yet_applied"}
