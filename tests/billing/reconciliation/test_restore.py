"""Our database is put back to an earlier moment: refunds and payouts are written again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from billing.models import (
    PayoutItem,
    PayoutReversal,
    PayoutRun,
    ReconcileDifference,
    TopupRefund,
    Transfer,
)
from billing.services import payout, refund
from billing.services.reconciliation import payouts as comparing_payouts
from billing.services.reconciliation import refunds as comparing_refunds
from billing.services.stripe_client import get_stripe
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing import payouts
from tests.billing.conftest import Shop, balances
from tests.billing.prepaid.flows import REFUND_SLOW, Flows
from tests.billing.reconciliation.reconciling import compare, spoil
from tests.billing.reconciliation.test_objects import (
    assert_clean,
    flows,
    pay_back,
    settle_refunds,
)
from tests.billing.test_ledger import broken

__all__ = ["flows"]
pytestmark = pytest.mark.django_db

State = TopupRefund.State
Explanation = ReconcileDifference.Explanation
# In the order in which they can go.
TABLES = {
    "billing_payoutreversal": "created_at",
    "billing_payoutitem": "created_at",
    "billing_payoutrun": "created_at",
    "billing_topuprefund": "created_at",
    "billing_stripecall": "first_sent_at",
    "marketplace_auditevent": "at",
}


def restore(moment: datetime, *, keeping: str = "") -> None:
    """Everything of ours since a moment is gone, but what may be kept as a trace."""
    for table in TABLES:
        spoil(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    spoil(
        """UPDATE billing_ledgeraccount a SET posted_nanos = a.posted_nanos - d.nanos FROM (
               SELECT e.ledger_account_id, sum(e.amount_nanos) AS nanos
               FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
               WHERE t.created_at > %s GROUP BY 1
           ) d WHERE a.id = d.ledger_account_id""",
        moment,
    )
    spoil(
        "DELETE FROM billing_transferentry e USING billing_transfer t"
        " WHERE t.id = e.transfer_id AND t.created_at > %s",
        moment,
    )
    spoil("DELETE FROM billing_transfer WHERE created_at > %s", moment)
    for table, column in TABLES.items():
        if table != keeping:
            spoil(f"DELETE FROM {table} WHERE {column} > %s", moment)


def lost(kind: str) -> list[ReconcileDifference]:
    """What is open of a kind, and explained by a restore."""
    rows = ReconcileDifference.objects.filter(resolved_at=None, kind=kind)
    return list(rows.filter(explanation=Explanation.RESTORED_DATABASE))


def facts(row: TopupRefund) -> tuple[Any, ...]:
    return (row.pk, row.state, row.net_cents, row.tax_cents, row.stripe_refund_id)


# --- Refunds ---


def test_refunds_are_written_again_and_taken_out_of_the_wallet(fake, flows: Flows) -> None:
    flows.buy(5_000)
    kept = pay_back(fake, flows, 300)
    moment = timezone.now()
    gone = [facts(pay_back(fake, flows, cents)) for cents in (1_000, 450)]
    before = balances()
    restore(moment)
    assert balances()["wallet"] == (4_700 * NANOS_PER_CENT, 0)

    run = compare()
    assert run.unexplained_count == 0
    assert len(lost("refund")) == len(lost("movement")) == 2
    assert compare(is_repairing=True).repaired_count == 2

    assert {facts(row) for row in TopupRefund.objects.exclude(pk=kept.pk)} == set(gone)
    assert balances() == before
    assert not broken() - {"charges-are-sealed"}
    # Nothing is taken twice by doing it again.
    run = compare(is_repairing=True)
    assert (run.repaired_count, run.difference_count) == (0, 0)
    assert balances() == before


@pytest.mark.parametrize("has_said", [True, False])
def test_the_tax_that_went_back_is_found_too(
    fake, flows: Flows, settings, monkeypatch: pytest.MonkeyPatch, has_said: bool
) -> None:
    """From what the refund says, or, of those of earlier versions, from its sum."""
    settings.STRIPE_TAX = True
    fake.order("tax", rate_bps=725)
    flows.buy(1_001)
    if not has_said:
        monkeypatch.setattr(refund, "NET_KEY", "something_else")
    pay_back(fake, flows, 77)
    moment = timezone.now()
    gone = [facts(pay_back(fake, flows, cents)) for cents in (500, 333)]
    before = balances()
    restore(moment)
    monkeypatch.setattr(refund, "NET_KEY", "net_cents")

    compare(is_repairing=True)

    assert set(gone) <= {facts(row) for row in TopupRefund.objects.all()}
    assert balances() == before
    assert not broken() - {"charges-are-sealed"}


def test_one_that_failed_there_comes_back(fake, flows: Flows) -> None:
    flows.buy(5_000)
    moment = timezone.now()
    row = pay_back(fake, flows, 1_000)
    fake.order(f"refunds/{row.stripe_refund_id}/settle", status="failed")
    restore(moment)

    compare(is_repairing=True)

    assert TopupRefund.objects.get().state == State.FAILED
    assert balances()["wallet"] == (5_000 * NANOS_PER_CENT, 0)
    assert_clean(compare())


def test_one_on_its_way_stays_on_its_way(fake, flows: Flows) -> None:
    flows.buy(5_000, REFUND_SLOW)
    moment = timezone.now()
    refund.request_refund(flows.actor, flows.account, amount_cents=1_000)
    restore(moment)

    compare(is_repairing=True)

    assert TopupRefund.objects.get().state == State.IN_FLIGHT
    assert balances()["refund_in_flight"] == (1_000 * NANOS_PER_CENT, 0)
    settle_refunds(fake, flows)
    assert TopupRefund.objects.get().state == State.SUCCEEDED
    assert_clean(compare())


def test_what_the_wallet_has_spent_meanwhile_is_left_to_a_person(fake, flows: Flows) -> None:
    flows.buy(5_000)
    moment = timezone.now()
    pay_back(fake, flows, 3_000)
    restore(moment)
    flows.spend(2_001)
    before = balances()

    run = compare(is_repairing=True)

    assert run.repaired_count == 0
    assert balances() == before
    assert not TopupRefund.objects.exists()
    assert len(lost("refund")) == 1


def test_more_than_a_payment_can_give_is_not_written(fake, flows: Flows) -> None:
    flows.buy(5_000)
    known = get_stripe().create_refund(
        payment_intent_id=flows.objects("payment_intent")[-1]["id"],
        amount_cents=1_000,
        metadata={"refund_id": "0190c9a4-0000-7000-8000-000000000000", "net_cents": "1001"},
        idempotency_key="test",
    )

    assert refund.restore_refund(known) is None
    assert not TopupRefund.objects.exists()


@pytest.mark.parametrize("trace", ["billing_stripecall", "marketplace_auditevent"])
def test_a_refund_that_was_removed_is_no_restore(fake, flows: Flows, trace: str) -> None:
    """Whoever takes one out of the books to get the credit again leaves a trace."""
    flows.buy(5_000)
    moment = timezone.now()
    pay_back(fake, flows, 1_000)
    restore(moment, keeping=trace)

    run = compare(is_repairing=True)

    assert (run.repaired_count, run.unexplained_count > 0) == (0, True)
    assert not TopupRefund.objects.exists()


def test_control_without_the_traces_what_was_removed_would_be_no_alarm(
    fake, flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows.buy(5_000)
    moment = timezone.now()
    pay_back(fake, flows, 1_000)
    restore(moment, keeping="marketplace_auditevent")
    monkeypatch.setattr(comparing_refunds, "has_heard_of", lambda *_: False)

    assert compare().unexplained_count == 0


# --- Payouts ---


@pytest.fixture
def earning(fake, shop: Shop) -> Shop:
    """A creator whose earnings can be paid out."""
    fake.order("balance/move", amount=100_000)
    connect_id = (
        get_stripe()
        .create_creator_account(
            account_id=shop.creator.pk,
            email="creator@example.com",
            country="US",
            display_name="Creator",
            idempotency_key="creator",
        )
        .id
    )
    fake.order(f"accounts/{connect_id}/onboard")
    payouts.connect(shop.creator, connect_id)
    payouts.earn(shop, 30 * 10**9 + 7)
    return shop


def pay_creator() -> PayoutItem:
    assert payout.start_due_run() is not None
    payout.advance_payouts()
    item = PayoutItem.objects.get()
    assert item.state == PayoutItem.State.PAID, item.reason
    return item


def test_a_payout_is_written_again_and_not_paid_twice(fake, earning: Shop) -> None:
    moment = timezone.now()
    item = pay_creator()
    before = balances()
    restore(moment)
    assert balances()["creator_payable"] == (30 * 10**9 + 7, 0)

    assert compare().unexplained_count == 0
    assert len(lost("payout")) == 1
    compare(is_repairing=True)

    again = PayoutItem.objects.get()
    assert (again.pk, again.state, again.amount_cents) == (item.pk, "paid", item.amount_cents)
    assert again.connect_transfer_id == item.connect_transfer_id
    assert balances() == before
    # The run of that payday is gone too, and begins anew: there is nothing to be paid.
    payout.start_due_run()
    payout.advance_payouts()
    assert len(fake.state()["objects"]["transfer"]) == 1
    assert_clean(compare(is_repairing=True))
    assert not broken() & {"payouts-are-booked", "entries-sum-to-zero"}


def test_control_without_it_the_creator_is_paid_twice(fake, earning: Shop) -> None:
    moment = timezone.now()
    pay_creator()
    restore(moment)

    payout.start_due_run()
    payout.advance_payouts()

    assert len(fake.state()["objects"]["transfer"]) == 2


def test_what_was_taken_back_of_it_is_written_again_too(fake, earning: Shop, admin: Actor) -> None:
    moment = timezone.now()
    item = pay_creator()
    payout.take_back(admin, item, amount_cents=500, is_forfeited=False, reason="By mistake.")
    payout.advance_payouts()
    before = balances()
    restore(moment)

    assert compare().unexplained_count == 0
    compare(is_repairing=True)

    assert PayoutReversal.objects.get().amount_cents == 500
    assert balances() == before
    assert_clean(compare())


def test_one_whose_earnings_were_not_released_yet_is_made_up_for(fake, earning: Shop) -> None:
    """The restore went back behind the release: the payable is below zero until it comes."""
    before_all = timezone.now()
    item = pay_creator()
    restore(before_all)
    spoil("UPDATE billing_ledgeraccount SET posted_nanos = 0 WHERE kind = 'creator_payable'")

    compare(is_repairing=True)

    assert balances()["creator_payable"] == (-item.amount_nanos, 0)
    assert PayoutItem.objects.get().state == "paid"


@pytest.mark.parametrize("trace", ["billing_stripecall", "marketplace_auditevent"])
def test_a_payout_that_was_removed_is_no_restore(
    fake, earning: Shop, platform_admin: User, trace: str
) -> None:
    moment = timezone.now()
    payout.start_run(Actor(user=platform_admin))
    payout.advance_payouts()
    item = PayoutItem.objects.get()
    payout.take_back(
        Actor(user=platform_admin), item, amount_cents=5, is_forfeited=False, reason="x"
    )
    restore(moment, keeping=trace)

    run = compare(is_repairing=True)

    assert (run.repaired_count, run.unexplained_count > 0) == (0, True)
    assert not PayoutItem.objects.exists()
    assert not Transfer.objects.filter(kind="payout_sent").exists()


def test_one_to_an_account_that_nobody_knows_is_not_written(fake, earning: Shop) -> None:
    moment = timezone.now()
    pay_creator()
    restore(moment)
    spoil("UPDATE billing_connectaccount SET connect_account_id = 'acct_other'")

    assert compare(is_repairing=True).repaired_count == 0
    assert not PayoutItem.objects.exists()
    assert not PayoutRun.objects.exists()


def test_control_without_the_traces_a_removed_payout_would_be_no_alarm(
    fake, earning: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = timezone.now()
    pay_creator()
    restore(moment, keeping="billing_stripecall")
    assert compare().unexplained_count > 0
    monkeypatch.setattr(comparing_payouts, "has_heard_of", lambda *_: False)

    assert compare().unexplained_count == 0
