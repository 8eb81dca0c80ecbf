"""Refunds, disputes, payouts, invoices and reported usage, compared with Stripe's."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from billing.models import (
    Dispute,
    Invoice,
    MeterReport,
    PayoutItem,
    PayoutReversal,
    PostpaidTerms,
    ReconcileDifference,
    ReconcileRun,
    StripeCustomer,
    Topup,
    TopupRefund,
)
from billing.services import dispute, invoice, payout, refund
from billing.services.reconcile import reconcile_nightly
from billing.services.reconciliation import compare as compare_module
from billing.services.stripe_client import get_stripe
from billing.services.stripe_customer import ensure_customer
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing import payouts
from tests.billing.conftest import Shop
from tests.billing.prepaid.flows import Flows
from tests.billing.reconciliation.reconciling import (
    LONG_AGO_S,
    Spoiler,
    compare,
    spoil,
    unbook,
)
from tests.billing.stripe_client.test_postpaid import save_card
from tests.fakestripe.process import FakeStripeProcess

pytestmark = pytest.mark.django_db

Explanation = ReconcileDifference.Explanation
DAY_S = 86_400
MICRO_PRICE = Decimal("0.0001")


@pytest.fixture
def flows(fake: FakeStripeProcess, owner: User, account: Account) -> Flows:
    return Flows(fake, Actor(user=owner), account)


def differences() -> list[dict[str, Any]]:
    return list(
        ReconcileDifference.objects.filter(resolved_at=None).values(
            "kind", "fault", "explanation", "our_id", "stripe_id", "note"
        )
    )


def found(kind: str) -> set[str]:
    """The explanations of what is open of a kind."""
    return {one["explanation"] for one in differences() if one["kind"] == kind}


def assert_clean(run: ReconcileRun) -> None:
    assert run.unexplained_count == 0, differences()


# --- Refunds and disputes ---


def settle_refunds(fake: FakeStripeProcess, flows: Flows, status: str = "succeeded") -> None:
    for one in flows.objects("refund"):
        if one["status"] == "pending":
            fake.order(f"refunds/{one['id']}/settle", status=status)
    for row in TopupRefund.objects.all():
        refund.settle_refund(row.pk)


def pay_back(fake: FakeStripeProcess, flows: Flows, cents: int) -> TopupRefund:
    (row,) = refund.request_refund(flows.actor, flows.account, amount_cents=cents)
    settle_refunds(fake, flows)
    row.refresh_from_db()
    return row


def test_refunds_agree_also_those_that_failed(fake, flows: Flows) -> None:
    flows.buy(5_000)
    pay_back(fake, flows, 1_000)
    failed = pay_back(fake, flows, 700)
    fake.order(f"refunds/{failed.stripe_refund_id}/settle", status="failed")
    refund.settle_refund(failed.pk)

    run = compare()

    assert_clean(run)
    assert run.counts["refund"]["matched"] == 2
    # Bought, paid back, paid back, and back again.
    assert run.counts["movement"]["matched"] == 4
    assert run.counts["movement"]["ours_nanos"] == 4_000 * NANOS_PER_CENT
    assert run.counts["fee"]["matched"] == 1


def test_a_refund_of_which_nobody_told_us_is_explained_and_repaired(fake, flows: Flows) -> None:
    flows.buy(5_000)
    (row,) = refund.request_refund(flows.actor, flows.account, amount_cents=500)
    settle_refunds(fake, flows)
    fake.order(f"refunds/{row.stripe_refund_id}/settle", status="failed")
    spoil("UPDATE billing_topuprefund SET created_at = created_at - interval '2 hours'")

    assert_clean(compare())
    assert found("refund") == {Explanation.NOT_YET_APPLIED}

    assert_clean(compare(is_repairing=True))
    row.refresh_from_db()
    assert row.state == TopupRefund.State.FAILED
    assert not found("refund")


def test_a_refund_whose_answer_was_lost_is_found(fake, flows: Flows) -> None:
    flows.buy(5_000)
    pay_back(fake, flows, 500)
    unbook("refund_sent")
    spoil(
        "UPDATE billing_topuprefund SET stripe_refund_id = NULL, state = 'in_flight',"
        " created_at = created_at - interval '2 hours'"
    )

    assert_clean(compare())
    assert Explanation.NOT_YET_APPLIED in found("refund")
    assert_clean(compare(is_repairing=True))
    assert TopupRefund.objects.get().state == TopupRefund.State.SUCCEEDED


def test_a_refund_that_somebody_made_at_stripe_is_an_alarm(fake, flows: Flows) -> None:
    row = flows.buy(5_000)
    get_stripe().create_refund(
        payment_intent_id=row.payment_intent_id or "",
        amount_cents=100,
        metadata={},
        idempotency_key="by hand",
    )

    run = compare()

    assert run.unexplained_count
    assert "" in found("refund")
    assert "" in found("movement")


REFUND_HARMS: dict[str, Callable[[Spoiler], object]] = {
    "gone here": lambda _: spoil("DELETE FROM billing_topuprefund"),
    "another amount here": lambda _: spoil("UPDATE billing_topuprefund SET net_cents = 1"),
    "another state here": lambda _: spoil("UPDATE billing_topuprefund SET state = 'failed'"),
    "booking gone": lambda _: spoil(
        "DELETE FROM billing_transferentry e USING billing_transfer t"
        " WHERE t.id = e.transfer_id AND t.kind = 'refund_sent'"
    ),
    "gone there": lambda one: one.delete("refund"),
    "another amount there": lambda one: one.alter("refund", lambda body: body.update(amount=1)),
    "of another payment": lambda one: one.alter(
        "refund", lambda body: body.update(payment_intent="pi_other")
    ),
    "twice there": lambda one: one.duplicate("refund"),
}


@pytest.mark.parametrize("harm", REFUND_HARMS)
def test_a_spoilt_refund_is_found(fake, flows: Flows, harm: str) -> None:
    flows.buy(5_000)
    pay_back(fake, flows, 500)
    assert_clean(compare())

    REFUND_HARMS[harm](Spoiler(fake))

    assert compare().unexplained_count, differences()


@pytest.mark.parametrize("status", ["", "won", "lost"])
def test_disputes_agree_however_they_end(fake, flows: Flows, status: str) -> None:
    row = flows.buy(5_000)
    flows.spend(1_000)
    dispute_id = flows.dispute(row)
    dispute.settle_dispute(dispute_id)
    assert_clean(compare())
    if status:
        flows.close(dispute_id, status)
        dispute.settle_dispute(dispute_id)

    run = compare()

    assert_clean(run)
    assert run.counts["dispute"]["matched"] == 1


def test_a_dispute_of_which_nobody_told_us_is_explained_and_repaired(fake, flows: Flows) -> None:
    dispute_id = flows.dispute(flows.buy(5_000))

    assert_clean(compare())
    assert found("dispute") == {Explanation.NOT_YET_APPLIED}

    assert_clean(compare(is_repairing=True))
    assert not found("dispute")
    flows.close(dispute_id, "won")
    assert_clean(compare())
    assert_clean(compare(is_repairing=True))
    assert Dispute.objects.get().state == Dispute.State.WON


DISPUTE_HARMS: dict[str, Callable[[Spoiler], object]] = {
    "another amount here": lambda _: spoil("UPDATE billing_dispute SET withdrawn_cents = 1"),
    "booking gone": lambda _: spoil(
        "DELETE FROM billing_transferentry e USING billing_transfer t"
        " WHERE t.id = e.transfer_id AND t.kind = 'dispute_lost'"
    ),
    "lost after all here": lambda _: spoil("UPDATE billing_dispute SET state = 'won'"),
    "gone there": lambda one: one.delete("dispute"),
    "of another payment": lambda one: one.alter(
        "dispute", lambda body: body.update(payment_intent="pi_other")
    ),
    "won there": lambda one: one.alter("dispute", lambda body: body.update(status="won")),
}


@pytest.mark.parametrize("harm", DISPUTE_HARMS)
def test_a_spoilt_dispute_is_found(fake, flows: Flows, harm: str) -> None:
    dispute_id = flows.dispute(flows.buy(5_000))
    flows.close(dispute_id, "lost")
    dispute.settle_dispute(dispute_id)
    assert_clean(compare())

    DISPUTE_HARMS[harm](Spoiler(fake))

    assert compare().unexplained_count, differences()


@pytest.mark.parametrize("action", ["delete", "alter"])
def test_a_spoilt_fee_is_found(fake, flows: Flows, action: str) -> None:
    flows.buy(5_000)
    assert_clean(compare())

    if action == "delete":
        spoil(
            "DELETE FROM billing_transferentry e USING billing_transfer t"
            " WHERE t.id = e.transfer_id AND t.kind = 'fee'"
        )
    else:
        Spoiler(fake).alter("balance_transaction", lambda body: body.update(fee=body["fee"] + 1))

    assert compare().unexplained_count, differences()
    assert "" in found("fee")


def test_a_fee_that_was_not_known_yet_is_booked_at_night(fake, flows: Flows) -> None:
    flows.buy(5_000)
    spoil("UPDATE billing_topup SET fee_cents = NULL, charge_id = NULL")
    unbook("fee")

    assert_clean(compare())
    assert found("fee") == {Explanation.FEE}

    run = reconcile_nightly()

    assert run is not None
    assert run.repaired_count == 1
    assert not found("fee")
    assert Topup.objects.get().fee_cents


# --- Payouts ---


@pytest.fixture
def paid(fake, shop: Shop) -> PayoutItem:
    """A creator who was paid."""
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
    assert payout.start_due_run() is not None
    payout.advance_payouts()
    item = PayoutItem.objects.get()
    assert item.state == PayoutItem.State.PAID, item.reason
    return item


def take_back(item: PayoutItem, admin: Actor, cents: int) -> PayoutReversal:
    return payout.take_back(
        admin, item, amount_cents=cents, is_forfeited=False, reason="By mistake."
    )


def test_payouts_and_what_was_taken_back_agree(fake, paid: PayoutItem, admin: Actor) -> None:
    row = take_back(paid, admin, 500)
    payout.advance_payouts()
    row.refresh_from_db()
    assert row.state == PayoutReversal.State.DONE, row.note

    run = compare()

    assert_clean(run)
    assert run.counts["payout"]["matched"] == run.counts["reversal"]["matched"] == 1


def test_what_was_taken_back_at_stripe_is_explained_and_repaired(fake, paid: PayoutItem) -> None:
    get_stripe().reverse_transfer(
        transfer_id=paid.connect_transfer_id or "",
        amount_cents=100,
        metadata={},
        idempotency_key="by hand",
    )

    assert_clean(compare())
    assert found("reversal") == {Explanation.NOT_YET_APPLIED}

    assert_clean(compare(is_repairing=True))
    assert PayoutReversal.objects.get().state == PayoutReversal.State.DONE


PAYOUT_HARMS: dict[str, Callable[[Spoiler], object]] = {
    "another amount here": lambda _: spoil_guarded(
        "UPDATE billing_payoutitem SET amount_cents = 1"
    ),
    "to somebody else here": lambda _: spoil_guarded(
        "UPDATE billing_payoutitem SET destination = 'acct_other'"
    ),
    "never sent here": lambda _: spoil_guarded(
        "UPDATE billing_payoutitem SET state = 'refused', connect_transfer_id = NULL"
    ),
    "booking gone": lambda _: spoil(
        "DELETE FROM billing_transferentry e USING billing_transfer t"
        " WHERE t.id = e.transfer_id AND t.kind = 'payout_sent'"
    ),
    "gone there": lambda one: one.delete("transfer"),
    "another amount there": lambda one: one.alter("transfer", lambda body: body.update(amount=1)),
    "to somebody else there": lambda one: one.alter(
        "transfer", lambda body: body.update(destination="acct_other")
    ),
    "twice there": lambda one: one.duplicate("transfer"),
}


def spoil_guarded(sql: str) -> None:
    spoil("ALTER TABLE billing_payoutitem DISABLE TRIGGER USER")
    spoil(sql)


@pytest.mark.parametrize("harm", PAYOUT_HARMS)
def test_a_spoilt_payout_is_found(fake, paid: PayoutItem, harm: str) -> None:
    assert_clean(compare())

    PAYOUT_HARMS[harm](Spoiler(fake))

    assert compare().unexplained_count, differences()


# --- Invoices and reported usage ---


@dataclass
class Month:
    """A month on credit at Stripe, and our rows of it."""

    terms: PostpaidTerms
    since: Any


@pytest.fixture
def month(fake, shop: Shop) -> Month:
    """Two hours of use, a month ago, and the invoice that a card paid."""
    made = make_month(fake, shop)
    row = Invoice.objects.get()
    assert (row.state, row.check_state) == ("paid", "agrees"), (row.state, row.note)
    return made


def make_month(fake: FakeStripeProcess, shop: Shop, *, has_card: bool = True) -> Month:
    """Two hours of use, a month ago, and their invoice; nobody pays it without a card."""
    begin = timezone.now() - timedelta(days=40)
    fake.order("clock", offset_s=-40 * DAY_S)
    stripe, customer_id = get_stripe(), ensure_customer(shop.consumer)
    meter = stripe.ensure_meter(event_name="strongroom", display_name="Use")
    price = stripe.ensure_metered_price(
        meter_id=meter.id,
        lookup_key="use",
        unit_amount_decimal=MICRO_PRICE,
        product_name="Predictions",
    )
    if has_card:
        card = save_card(stripe, customer_id, "4242424242424242")
        stripe.set_default_card(
            customer_id=customer_id, payment_method_id=card.id, idempotency_key="default"
        )
    subscription = stripe.create_subscription(
        customer_id=customer_id,
        price_id=price.id,
        metadata={"account_id": str(shop.consumer.pk)},
        idempotency_key="subscription",
    )
    terms = PostpaidTerms.objects.create(
        account=shop.consumer,
        state="active",
        meter_id=meter.id,
        subscription_id=subscription.id,
        activated_at=begin,
    )
    total = 0
    for number, micro in enumerate((3_000_000, 2_000_001)):
        moment = begin + timedelta(hours=3 * (number + 1))
        fake.order("clock", offset_s=int((moment - timezone.now()).total_seconds()))
        stripe.send_meter_event(
            event_name="strongroom",
            customer_id=customer_id,
            value=micro,
            identifier=f"report-{number}",
            occurred_at=moment,
        )
        total += micro * 1_000
        MeterReport.objects.create(
            account=shop.consumer,
            hour=moment.replace(minute=0, second=0, microsecond=0),
            seq=0,
            number=number + 1,
            counted_at=moment,
            usage_nanos=micro * 1_000,
            total_nanos=total,
            value_micro=micro,
            residual_nanos=0,
            predictions=1,
            identifier=f"report-{number}",
            state="ok",
            sent_at=moment,
        )
    fake.order("clock", offset_s=-LONG_AGO_S)
    latest_id = stripe.retrieve_subscription(subscription.id).latest_invoice_id or ""
    assert invoice.mirror_invoice(latest_id) is not None
    return Month(terms, begin - timedelta(days=1))


def test_an_invoice_and_its_reports_agree(fake, month: Month) -> None:
    run = compare(since=month.since)

    assert_clean(run)
    assert run.counts["invoice"]["matched"] == 1
    assert run.counts["meter"]["matched"] == 2
    assert run.counts["movement"]["matched"] == 1
    # Its fee is booked at night, and then it is there.
    assert found("fee") == {Explanation.FEE}
    assert_clean(compare(since=month.since, is_repairing=True))
    assert not found("fee")


def test_its_money_is_found_though_it_came_long_before(fake, month: Month) -> None:
    run = compare()

    assert_clean(run)
    assert run.counts["movement"]["matched"] == 1


INVOICE_HARMS: dict[str, Callable[[Spoiler], object]] = {
    "gone here": lambda _: spoil("DELETE FROM billing_invoice"),
    "another total here": lambda _: spoil("UPDATE billing_invoice SET total_cents = 1"),
    "open here": lambda _: spoil("UPDATE billing_invoice SET booked_at = NULL, state = 'void'"),
    "over less than was reported": lambda _: spoil(
        "UPDATE billing_invoice SET reported_micro = reported_micro + 20000"
    ),
    "booking gone": lambda _: spoil(
        "DELETE FROM billing_transferentry e USING billing_transfer t"
        " WHERE t.id = e.transfer_id AND t.kind = 'invoice_paid'"
    ),
    "a report gone here": lambda _: spoil_reports(
        "DELETE FROM billing_meterreport WHERE identifier = 'report-0'"
    ),
    "a report over more": lambda _: spoil_reports(
        "UPDATE billing_meterreport SET value_micro = value_micro + 1"
    ),
    "gone there": lambda one: one.delete("invoice"),
    "another total there": lambda one: one.alter("invoice", lambda body: body.update(total=1)),
    "void there": lambda one: one.alter("invoice", lambda body: body.update(status="void")),
    "of somebody else there": lambda one: one.alter(
        "invoice", lambda body: body.update(customer="cus_other")
    ),
}


def spoil_reports(sql: str) -> None:
    spoil("ALTER TABLE billing_meterreport DISABLE TRIGGER USER")
    spoil(sql)


@pytest.mark.parametrize("harm", INVOICE_HARMS)
def test_a_spoilt_invoice_or_report_is_found(fake, month: Month, harm: str) -> None:
    assert_clean(compare(since=month.since))

    INVOICE_HARMS[harm](Spoiler(fake))

    assert compare(since=month.since).unexplained_count, differences()


@pytest.mark.parametrize("action", ["delete", "duplicate"])
def test_a_spoilt_meter_event_is_found(fake, month: Month, action: str) -> None:
    fake.order("mutate", id="report-0", action=action)

    assert compare(since=month.since).unexplained_count
    assert "" in found("meter")


def test_a_report_that_is_on_its_way_is_no_alarm(fake, month: Month, shop: Shop) -> None:
    now = timezone.now()
    row = MeterReport.objects.create(
        account=shop.consumer,
        hour=now.replace(minute=0, second=0, microsecond=0),
        seq=0,
        number=9,
        counted_at=now,
        usage_nanos=7_000,
        total_nanos=7_000,
        value_micro=7,
        residual_nanos=0,
        predictions=1,
        identifier="report-9",
        state="new",
    )

    assert_clean(compare())
    assert found("meter") == {Explanation.IN_FLIGHT}
    spoil("UPDATE billing_meterreport SET created_at = created_at - interval '2 hours'")
    assert_clean(compare())
    assert found("meter") == {Explanation.NOT_YET_APPLIED}
    # One that Stripe is said to have counted long ago is another matter.
    spoil_reports("UPDATE billing_meterreport SET state = 'ok', sent_at = created_at")
    assert compare().unexplained_count
    assert StripeCustomer.objects.get().account_id == row.account_id
    assert Invoice.objects.count() == 1


# --- All together ---


@pytest.mark.parametrize("seed", range(14))
def test_a_clean_history_of_everything_raises_no_alarm(fake, flows: Flows, seed: int) -> None:
    """Buying, spending, paying back, disputes won and lost, told in any order or not at all."""
    dice = random.Random(seed)
    bought: list[Topup] = []
    disputes: list[str] = []
    for _ in range(dice.randint(3, 9)):
        what = dice.choice(["buy", "buy", "buy", "spend", "refund", "dispute", "close", "told"])
        if what == "buy" and not disputes:
            bought.append(flows.buy(dice.randint(500, 9_000)))
        elif what == "spend" and flows.wallet_cents() > 1:
            flows.spend(dice.randint(1, flows.wallet_cents()))
        elif what == "refund" and flows.wallet_cents() > 1:
            with suppress(MarketplaceError):
                refund.request_refund(flows.actor, flows.account, amount_cents=1)
            settle_refunds(fake, flows, dice.choice(["succeeded", "succeeded", "failed"]))
        elif what == "dispute" and bought:
            disputes.append(flows.dispute(bought.pop()))
        elif what == "close" and disputes:
            with suppress(AssertionError):  # Closed already.
                flows.close(dice.choice(disputes), dice.choice(["won", "lost"]))
        elif what == "told":
            for dispute_id in dice.sample(disputes, len(disputes)):
                dispute.settle_dispute(dispute_id)

    assert_clean(compare())
    assert_clean(compare(is_repairing=True))
    last = compare()
    assert_clean(last)
    movements = last.counts["movement"]
    assert movements["ours_nanos"] == movements["stripe_nanos"], differences()


def test_without_the_comparison_of_money_a_booking_could_vanish(
    fake, flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the harms above are found by what compares, and by nothing else."""
    flows.buy(5_000)
    spoil("DELETE FROM billing_transferentry")
    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "compare_movements", lambda *_args: [])
        assert_clean(compare())

    assert compare().unexplained_count
