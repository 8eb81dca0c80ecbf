"""Disputes and early fraud warnings, in any order and any number of times."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import replace

import pytest
from django.db import connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import NothingToRefundError
from billing.models import (
    AccountFreeze,
    Dispute,
    PayoutHold,
    ReviewCase,
    ReviewSignal,
    StripeEvent,
    Topup,
    TopupRefund,
)
from billing.selectors.payout_hold import has_payout_hold
from billing.selectors.refund import sum_refundable_cents
from billing.services import dispute, ledger
from billing.services.auto_topup import configure_auto_topup, run_auto_topups
from billing.services.dispute import effect_of, poll_disputes, settle_dispute, tax_of
from billing.services.fraud_warning import poll_fraud_warnings
from billing.services.refund import refund_unspent
from marketplace.core.errors import AccountFrozenError
from marketplace.models import AuditEvent
from marketplace.selectors.access import Actor
from tests.billing.lock_order import LockedLateError, whole_history
from tests.billing.prepaid.flows import (
    REFUND_FAILS,
    REFUND_SLOW,
    Flows,
    cents_by_kind,
    receive,
    states,
)
from tests.billing.test_ledger import broken

pytestmark = pytest.mark.django_db

FEE = 1_500


def test_a_dispute_freezes_the_account_and_takes_the_rest_of_its_wallet(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.spend(1_000)
    dispute_id = flows.dispute(row)

    assert settle_dispute(dispute_id)

    assert flows.frozen()
    assert cents_by_kind() == {
        "platform_revenue": 1_000,
        "dispute_loss": -1_000,  # What the 1,500 of the wallet do not pay of the 2,500.
        "stripe_clearing": row.fee_cents + FEE,
        "stripe_fee": -row.fee_cents - FEE,
    }
    found = Dispute.objects.get()
    assert (found.state, found.taken_nanos, found.withdrawn_cents) == ("open", 15 * 10**9, 2_500)
    case = ReviewCase.objects.get()
    assert (case.state, case.signals.get().kind) == ("open", "dispute")
    assert has_payout_hold(flows.account)
    assert broken() == set()


def test_a_dispute_that_locks_its_fee_late_is_noticed(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of what `lock_order` watches in all tests here."""
    dispute_id = flows.dispute(flows.buy(2_500))
    monkeypatch.setattr(ledger, "lock_accounts", lambda _: None)

    with pytest.raises(LockedLateError, match="stripe_fee"):
        settle_dispute(dispute_id)


def test_what_is_only_asked_for_is_held(flows: Flows) -> None:
    """An inquiry takes no money; what it may take is set aside."""
    row = flows.buy(2_500)
    dispute_id = flows.dispute(row, is_inquiry=True)

    settle_dispute(dispute_id)
    sums = cents_by_kind()
    assert (sums["dispute_hold"], sums.get("wallet")) == (2_500, None)
    assert flows.frozen()
    flows.close(dispute_id, "warning_closed")
    settle_dispute(dispute_id)

    assert flows.wallet_cents() == 2_500
    assert not flows.frozen()
    assert broken() == set()


def test_no_more_is_taken_than_is_disputed(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.buy(2_500)

    settle_dispute(flows.dispute(row, amount=700))

    assert flows.wallet_cents() == 5_000 - 700
    assert broken() == set()


def test_a_dispute_that_is_won_is_as_if_it_had_never_been_but_for_the_fee(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.spend(1_000)
    before = cents_by_kind()
    dispute_id = flows.dispute(row)
    settle_dispute(dispute_id)
    flows.close(dispute_id, "won")

    for _ in range(3):
        settle_dispute(dispute_id)

    assert not flows.frozen()
    after = cents_by_kind()
    assert after["wallet"] == before["wallet"] == 1_500
    assert after["stripe_fee"] == before["stripe_fee"] - FEE
    assert after["stripe_clearing"] == before["stripe_clearing"] + FEE
    assert "dispute_loss" not in after
    assert ReviewCase.objects.get().state == "cleared"
    assert not has_payout_hold(flows.account)
    assert broken() == set()


def test_the_fee_comes_back_if_stripe_gives_it_back(flows: Flows) -> None:
    row = flows.buy(2_500)
    before = cents_by_kind()
    dispute_id = flows.dispute(row)
    settle_dispute(dispute_id)
    flows.close(dispute_id, "won", fee_returned_cents=FEE)

    settle_dispute(dispute_id)

    assert cents_by_kind() == before
    assert broken() == set()


def test_a_dispute_that_is_lost_stays_and_so_does_the_freeze(flows: Flows) -> None:
    row = flows.buy(2_500)
    dispute_id = flows.dispute(row)
    settle_dispute(dispute_id)
    flows.close(dispute_id, "lost")

    for _ in range(3):
        settle_dispute(dispute_id)

    assert flows.frozen()
    assert Dispute.objects.get().state == "lost"
    assert flows.wallet_cents() == 0
    # Credit that is bought later is not taken for it.
    Topup.objects.update(created_at=row.created_at)
    flows.account.frozen_at = None
    flows.account.save()
    flows.buy(2_500)
    settle_dispute(dispute_id)
    assert flows.wallet_cents() == 2_500
    assert broken() == set()


def test_one_dispute_won_does_not_free_from_another(flows: Flows) -> None:
    first, second = flows.buy(2_500), flows.buy(1_000)
    one, other = flows.dispute(first), flows.dispute(second)
    settle_dispute(one)
    settle_dispute(other)
    flows.close(one, "won")

    settle_dispute(one)

    assert flows.frozen()
    assert ReviewCase.objects.get().state == "open"
    flows.close(other, "won")
    settle_dispute(other)
    assert not flows.frozen()
    assert ReviewCase.objects.get().state == "cleared"
    assert broken() == set()


def test_a_freed_account_is_not_frozen_by_a_repeat(flows: Flows) -> None:
    row = flows.buy(2_500)
    dispute_id = flows.dispute(row)
    events = flows.events()
    settle_dispute(dispute_id)
    flows.close(dispute_id, "won")
    settle_dispute(dispute_id)

    receive(events * 2)

    assert not flows.frozen()
    assert AccountFreeze.objects.count() == 1


def test_a_frozen_account_neither_buys_nor_gets_back(flows: Flows) -> None:
    flows.save_card()
    row = flows.buy(2_500)
    fields = {"threshold_cents": 1_000, "amount_cents": 2_500, "monthly_limit_cents": 5_000}
    configure_auto_topup(flows.actor, flows.account, **fields)
    settle_dispute(flows.dispute(row))

    run_auto_topups()
    with pytest.raises(AccountFrozenError):
        flows.start()

    assert not Topup.objects.filter(source="auto").exists()


def test_a_disputed_payment_is_not_paid_back(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.give(2_500)  # So that something is left to try with.
    flows.spend(1)
    settle_dispute(flows.dispute(row))
    flows.give(5_000)

    assert sum_refundable_cents(flows.account) == 0
    with pytest.raises(NothingToRefundError):
        refund_unspent(flows.account, request_key="x", label="test")


def test_what_was_reserved_at_first_is_taken_later(flows: Flows) -> None:
    row = flows.buy(2_500)
    wallet = "UPDATE billing_ledgeraccount SET held_nanos = %s WHERE kind = 'wallet'"
    run_sql(wallet, 10**10)
    dispute_id = flows.dispute(row)
    settle_dispute(dispute_id)
    assert flows.wallet_cents() == 1_000
    run_sql(wallet, 0)

    assert poll_disputes() == 1

    assert flows.wallet_cents() == 0
    assert "dispute_loss" not in cents_by_kind()
    assert broken() == set()


def run_sql(sql: str, *arguments: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)


def test_a_prediction_that_was_quicker_leaves_less(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = flows.buy(2_500)
    dispute_id = flows.dispute(row)
    honest = dispute._find_free_nanos
    monkeypatch.setattr(dispute, "_find_free_nanos", lambda *given: honest(*given) + 10**7)
    row_limit = flows.buy(100_00)  # Plenty, which somebody has reserved.
    run_sql("UPDATE billing_ledgeraccount SET held_nanos = posted_nanos WHERE kind = 'wallet'")

    settle_dispute(dispute_id)

    assert Dispute.objects.get().taken_nanos == 0
    assert cents_by_kind()["dispute_loss"] == -2_500
    assert row_limit.state == "credited"
    run_sql("UPDATE billing_ledgeraccount SET held_nanos = 0 WHERE kind = 'wallet'")
    assert broken() == set()


def test_the_poll_finds_a_dispute_that_nobody_told_of(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.dispute(row)

    assert poll_disputes() == 1

    assert Dispute.objects.get().state == "open"
    assert flows.frozen()


def test_a_dispute_told_before_its_payment_books_both(flows: Flows) -> None:
    row = flows.start(2_500)
    flows.pay(row)
    dispute_id = flows.dispute(row)

    assert settle_dispute(dispute_id)

    row.refresh_from_db()
    assert row.state == "credited"
    assert Dispute.objects.get().withdrawn_cents == 2_500
    assert broken() == set()


def test_a_dispute_about_a_payment_that_was_set_aside_waits(flows: Flows) -> None:
    row = flows.start(2_500)
    flows.pay(row)
    Topup.objects.update(amount_cents=9_900)

    receive(
        [
            {
                "id": "evt",
                "type": "charge.dispute.created",
                "data": {"object": {"id": flows.dispute(row)}},
            }
        ]
    )

    assert StripeEvent.objects.get().state == "failed"
    assert cents_by_kind() == {}


STORIES = {
    "won": [("won", {})],
    "won with fee": [("won", {"fee_returned_cents": FEE})],
    "lost": [("lost", {})],
    "open": [],
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("spent_cents", [0, 1_000, 2_500])
@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_events_ends_in_the_same_ledger(
    flows: Flows, story: str, spent_cents: int, seed: int
) -> None:
    """Some events come between what happens at Stripe, all come in the end, shuffled."""
    draw = random.Random(f"{story} {seed}")
    row = flows.buy(2_500)
    if spent_cents:
        flows.spend(spent_cents)
    dispute_id = flows.dispute(row)
    receive_some(flows, draw)
    for status, more in STORIES[story]:
        flows.close(dispute_id, status, **more)
        receive_some(flows, draw)
    everything = flows.events() * draw.randint(1, 3)
    draw.shuffle(everything)

    receive(everything)

    is_won = story.startswith("won")
    fee = row.fee_cents + (0 if story == "won with fee" else FEE)
    rest = 2_500 - spent_cents
    expected = {
        "platform_revenue": spent_cents,
        "wallet": rest if is_won else 0,
        "dispute_loss": 0 if is_won else -spent_cents,
        "stripe_fee": -fee,
        "stripe_clearing": fee - (2_500 if is_won else 0),
    }
    assert cents_by_kind() == {kind: cents for kind, cents in expected.items() if cents}
    assert flows.frozen() == (not is_won)
    assert broken() == set()


def receive_some(flows: Flows, draw: random.Random) -> None:
    events = flows.events() * 2
    draw.shuffle(events)
    receive(events[: draw.randrange(len(events) + 1)])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_permutation_ends_in_the_same_ledger(told, data) -> None:
    """All that Stripe ever told, twice each, in any order, to an account that knew nothing."""
    flows, events, expected = told
    order = data.draw(st.permutations(events * 2))

    with whole_history():
        receive(order)
        # What came before its payment was known is tried again, as the sweep does.
        receive(events)
        found = (cents_by_kind(), states(), flows.frozen(), broken())
        transaction.set_rollback(True)

    assert found == expected


@pytest.fixture(params=["paid", "taxed", "automatic", "refunded", "refund failed", "won", "lost"])
def told(request, flows: Flows, settings, quick: None):
    """A story as Stripe knows it to its end, and as we do before anything was told."""
    tell_story(flows, request.param, settings)
    events = flows.events()
    with whole_history():
        receive(events)
        expected = (cents_by_kind(), states(), flows.frozen(), set())
        transaction.set_rollback(True)
    assert expected[0]["stripe_fee"] < 0
    ends = {"refunded": "succeeded", "refund failed": "failed", "won": "won", "lost": "lost"}
    found = [row[0] for row in expected[1]["refunds"] + expected[1]["disputes"]]
    assert found == ([ends[request.param]] if request.param in ends else [])
    return flows, events, expected


def tell_story(flows: Flows, name: str, settings) -> None:
    if name == "automatic":
        flows.save_card()
        fields = {"threshold_cents": 1_000, "amount_cents": 2_500, "monthly_limit_cents": 5_000}
        configure_auto_topup(flows.actor, flows.account, **fields)
        path = "/v1/payment_intents"
        flows.fake.order("faults", kind="drop_after_effect", method="POST", path=path)
        run_auto_topups()
        return
    if name.startswith("refund"):
        flows.buy(2_500, REFUND_FAILS if name == "refund failed" else REFUND_SLOW)
        flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/refunds")
        refund_unspent(flows.account, request_key="story", label="test", amount_cents=1_000)
        flows.fake.order("clock", advance_s=7_200)
        return
    if name == "taxed":
        settings.STRIPE_TAX = True
        flows.fake.order("tax", rate_bps=1_900)
    row = flows.start(2_500)
    flows.pay(row)
    if name in ("won", "lost"):
        flows.close(flows.dispute(row), name)


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_book_a_dispute_once(fake, owner, account) -> None:
    flows = Flows(fake, Actor(user=owner), account)
    row = flows.buy(2_500)
    flows.spend(1_000)
    dispute_id = flows.dispute(row)
    gate = threading.Barrier(4)

    def go() -> None:
        try:
            gate.wait(10)
            settle_dispute(dispute_id)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert cents_by_kind()["dispute_loss"] == -1_000
    assert flows.wallet_cents() == 0
    assert ReviewCase.objects.count() == ReviewSignal.objects.count() == 1
    assert broken() == set()


def test_the_effect_of_a_dispute_sums_to_zero() -> None:
    for taken, withdrawn, tax in itertools.product((0, 5, 9), (0, 5, 9), (0, 1, 5)):
        effect = effect_of(taken, withdrawn, min(tax, withdrawn))
        parts = (effect.wallet_nanos, effect.hold_nanos, effect.loss_nanos)
        assert sum(parts) + effect.clearing_nanos + effect.tax_nanos == 0


# --- Tax ---


@pytest.fixture
def taxed(flows: Flows, settings) -> Flows:
    """Where 19 % of tax come on top."""
    settings.STRIPE_TAX = True
    flows.fake.order("tax", rate_bps=1_900)
    return flows


def test_the_tax_of_a_disputed_payment_is_owed_to_nobody(taxed: Flows) -> None:
    row = taxed.buy(2_500)
    taxed.spend(1_000)
    assert cents_by_kind()["tax_payable"] == row.tax_cents == 475
    dispute_id = taxed.dispute(row)

    for _ in range(3):
        settle_dispute(dispute_id)

    sums = cents_by_kind()
    assert "tax_payable" not in sums
    # The wallet never held the tax: what it lacks of the 2,500 is our loss.
    assert (sums["dispute_loss"], sums.get("wallet")) == (-1_000, None)
    assert sums["stripe_clearing"] == row.fee_cents + FEE
    found = Dispute.objects.get()
    assert (found.withdrawn_cents, found.tax_cents) == (2_975, 475)
    assert broken() == set()


def test_a_dispute_that_is_won_owes_the_tax_again(taxed: Flows) -> None:
    row = taxed.buy(2_500)
    before = cents_by_kind()
    dispute_id = taxed.dispute(row)
    settle_dispute(dispute_id)
    taxed.close(dispute_id, "won", fee_returned_cents=FEE)

    settle_dispute(dispute_id)

    assert cents_by_kind() == before
    assert broken() == set()


def test_no_tax_is_taken_out_of_the_wallet(taxed: Flows) -> None:
    row = taxed.buy(2_500)
    taxed.buy(2_500)

    settle_dispute(taxed.dispute(row, is_inquiry=True))
    assert taxed.wallet_cents() == 2_500
    assert cents_by_kind()["tax_payable"] == 950

    assert broken() == set()


@pytest.mark.parametrize("part", [1, 333, 1_000, 1_073, 1_074])
def test_a_part_that_is_disputed_takes_its_part_of_the_tax(flows, settings, part: int) -> None:
    settings.STRIPE_TAX = True
    flows.fake.order("tax", rate_bps=725)
    row = flows.buy(1_001)
    assert (row.gross_cents, row.tax_cents) == (1_074, 73)

    settle_dispute(flows.dispute(row, amount=part))

    found = Dispute.objects.get()
    assert found.tax_cents == -(-73 * part // 1_074)
    assert cents_by_kind().get("tax_payable", 0) == 73 - found.tax_cents
    assert broken() == set()


@pytest.mark.parametrize("net", [1, 77, 500, 1_000])
def test_refunds_and_a_dispute_of_the_rest_are_all_of_the_tax(flows, settings, net: int) -> None:
    settings.STRIPE_TAX = True
    flows.fake.order("tax", rate_bps=725)
    row = flows.buy(1_001)
    (back,) = refund_unspent(flows.account, request_key="a", label="test", amount_cents=net)

    settle_dispute(flows.dispute(row, amount=row.gross_cents - back.gross_cents))

    assert "tax_payable" not in cents_by_kind()
    assert flows.wallet_cents() == 0
    assert broken() == set()


@given(st.integers(1, 10**6), st.integers(0, 10**5), st.lists(st.integers(1, 10**5), max_size=5))
def test_tax_in_parts_adds_up(net_cents: int, tax_cents: int, parts: list[int]) -> None:
    """Refunds, rounded down, and what a bank takes of the rest, rounded up, leave nothing."""
    returned = min(sum(parts), net_cents)
    returned_tax = tax_cents * returned // net_cents
    gross_cents = net_cents + tax_cents
    rest = gross_cents - returned - returned_tax

    taken = tax_of(rest, gross_cents=gross_cents, tax_cents=tax_cents)

    assert taken + returned_tax == tax_cents
    assert tax_of(0, gross_cents=gross_cents, tax_cents=tax_cents) == 0
    assert tax_of(gross_cents, gross_cents=gross_cents, tax_cents=tax_cents) == tax_cents


def test_control_tax_that_stays_owed_would_be_found_out(
    taxed: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: all that the bank takes is our loss, and the state is owed its tax of it."""
    forget = dispute._post_difference

    def without_tax(row, before, after, state) -> None:
        after = replace(after, loss_nanos=after.loss_nanos + after.tax_nanos, tax_nanos=0)
        forget(row, before, after, state)

    monkeypatch.setattr(dispute, "_post_difference", without_tax)
    row = taxed.buy(2_500)

    settle_dispute(taxed.dispute(row))

    assert {"tax-is-booked", "dispute-holds-match"} <= broken()


def test_a_handler_that_believes_the_event_would_be_found_out(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a booking that forgets what it did books twice, and the checks see it."""
    row = flows.buy(2_500)
    flows.spend(2_500)
    dispute_id = flows.dispute(row)
    settle_dispute(dispute_id)
    Dispute.objects.update(withdrawn_cents=0, fee_cents=0)

    settle_dispute(dispute_id)

    assert "dispute-holds-match" in broken()


# --- Early fraud warnings ---


def test_a_warning_pays_back_what_is_unspent_and_freezes(flows: Flows) -> None:
    other = flows.buy(1_000)
    row = flows.buy(2_500)
    flows.spend(500)

    flows.warn(row)
    receive(flows.events() * 2)

    assert flows.frozen()
    back = TopupRefund.objects.get()
    assert (back.topup_id, back.net_cents, back.state) == (row.pk, 2_500, "succeeded")
    assert other.state == "credited"
    assert ReviewSignal.objects.get().kind == "fraud_warning"
    assert PayoutHold.objects.filter(released_at=None).count() == 1
    assert AuditEvent.objects.filter(action="account.freeze").count() == 1
    assert broken() == set()


def test_a_warning_about_spent_credit_freezes_and_opens_a_case(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.spend(2_500)

    flows.warn(row)
    assert poll_fraud_warnings() == 1
    assert poll_fraud_warnings() == 0

    assert flows.frozen()
    assert not TopupRefund.objects.exists()
    assert ReviewCase.objects.get().state == "open"


@pytest.mark.parametrize("seed", range(6))
def test_a_warning_and_a_dispute_end_the_same_in_every_order(flows: Flows, seed: int) -> None:
    row = flows.buy(2_500)
    flows.warn(row)
    flows.dispute(row)
    events = flows.events() * 2
    random.Random(seed).shuffle(events)

    receive(events)

    # The bank was there first: nothing is paid back on top of what it took.
    assert not TopupRefund.objects.exists()
    fee = row.fee_cents + FEE
    assert cents_by_kind() == {"stripe_clearing": fee, "stripe_fee": -fee}
    assert ReviewCase.objects.count() == 1
    assert ReviewSignal.objects.count() == 2
    assert broken() == set()
