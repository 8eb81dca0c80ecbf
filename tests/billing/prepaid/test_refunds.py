"""Money that goes back: only what was bought and is unspent, once, and never more."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from django.db import connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import NothingToRefundError, RefundTooLargeError
from billing.models import StripeCall, TopupRefund, Transfer
from billing.selectors import refund as refund_selectors
from billing.selectors.refund import sum_refundable_cents
from billing.services import ledger, refund
from billing.services.refund import REQUESTS_PER_DAY_MAX, poll_refunds, request_refund
from billing.stripe.client import StripeGateway
from marketplace.core.errors import AccountFrozenError, InvalidInputError, LimitExceededError
from marketplace.core.ids import new_id
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing.lock_order import whole_history
from tests.billing.prepaid.flows import (
    OTHER_GOOD,
    REFUND_FAILS,
    REFUND_SLOW,
    Flows,
    age,
    cents_by_kind,
    receive,
    states,
)
from tests.billing.test_ledger import broken
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db

State = TopupRefund.State
MOVES = st.tuples(st.sampled_from(["buy", "give", "spend"]), st.integers(1, 9))


def ask(flows: Flows, amount_cents: int | None = None, **more) -> list[TopupRefund]:
    return request_refund(flows.actor, flows.account, amount_cents=amount_cents, **more)


def at_stripe(flows: Flows) -> list[int]:
    return [one["amount"] for one in flows.objects("refund")]


def test_the_unspent_part_goes_back(flows: Flows) -> None:
    row = flows.buy(2_500)
    flows.spend(1_000)

    (back,) = ask(flows)

    assert (back.state, back.net_cents, back.tax_cents) == (State.SUCCEEDED, 1_500, 0)
    assert at_stripe(flows) == [1_500]
    assert cents_by_kind() == {
        "stripe_clearing": -(1_000 - row.fee_cents),
        "stripe_fee": -row.fee_cents,
        "platform_revenue": 1_000,
    }
    kinds = list(Transfer.objects.order_by("created_at").values_list("kind", flat=True))
    assert kinds[-2:] == ["refund", "refund_sent"]
    assert broken() == set()
    with pytest.raises(NothingToRefundError):
        ask(flows)


def test_the_newest_payment_goes_back_first_each_up_to_its_rest(flows: Flows) -> None:
    first, second = flows.buy(2_500), flows.buy(1_000, OTHER_GOOD)

    rows = ask(flows, 1_200)
    assert [(row.topup_id, row.net_cents) for row in rows] == [(second.pk, 1_000), (first.pk, 200)]
    rows = ask(flows)

    assert [(row.topup_id, row.net_cents) for row in rows] == [(first.pk, 2_300)]
    assert sum(at_stripe(flows)) == 3_500
    assert broken() == set()


def test_more_than_the_rest_is_refused_and_nothing_moves(flows: Flows) -> None:
    flows.buy(2_500)
    flows.spend(1_000)

    with pytest.raises(RefundTooLargeError) as caught:
        ask(flows, 1_501)

    assert caught.value.params["refundable_cents"] == 1_500
    assert at_stripe(flows) == []
    assert not TopupRefund.objects.exists()
    (row,) = ask(flows, 1_500)
    assert row.state == State.SUCCEEDED


@pytest.mark.parametrize("cents", [0, -1])
def test_no_amount_is_no_refund(flows: Flows, cents: int) -> None:
    flows.buy()

    with pytest.raises(InvalidInputError):
        ask(flows, cents)


def test_a_part_of_a_cent_stays(flows: Flows) -> None:
    flows.buy(500)
    query = "UPDATE billing_ledgeraccount SET held_nanos = 1 WHERE kind = 'wallet'"
    with connections["default"].cursor() as cursor:
        cursor.execute(query)

    assert sum_refundable_cents(flows.account) == 499


@pytest.mark.parametrize("kind", [Transfer.Kind.PROMO, Transfer.Kind.CREDIT])
def test_given_credit_never_goes_back(flows: Flows, kind: Transfer.Kind) -> None:
    flows.give(1_000, kind)
    with pytest.raises(NothingToRefundError):
        ask(flows)
    flows.buy(2_500)
    flows.spend(600)  # Of what was given.

    assert sum_refundable_cents(flows.account) == 2_500
    ask(flows)

    assert flows.wallet_cents() == 400
    # No admin proposed this one.
    assert broken() == ({"credits-are-approved"} if kind == Transfer.Kind.CREDIT else set())


def test_credit_given_after_all_was_spent_never_goes_back(flows: Flows) -> None:
    """A sum over all time would take the gift for what was bought."""
    flows.buy(2_500)
    flows.spend(2_500)
    flows.give(1_000)

    assert sum_refundable_cents(flows.account) == 0


def test_a_refund_does_not_turn_given_credit_into_bought(flows: Flows) -> None:
    """What goes back was bought; it uses up nothing of what was given."""
    flows.buy(2_500)
    flows.spend(2_000)
    flows.give(1_000)

    (row,) = ask(flows)

    assert row.net_cents == 500
    assert sum_refundable_cents(flows.account) == 0
    with pytest.raises(NothingToRefundError):
        ask(flows)
    assert flows.wallet_cents() == 1_000
    assert broken() == set()


def test_without_the_rule_given_credit_would_go_back(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    flows.buy(2_500)
    flows.spend(2_500)
    flows.give(1_000)
    monkeypatch.setattr(refund_selectors, "_find_given_nanos", lambda wallet: 0)

    assert sum_refundable_cents(flows.account) == 1_000


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(MOVES, max_size=9))
def test_given_credit_is_spent_first_against_a_plain_model(db, moves) -> None:
    with whole_history():
        account = AccountFactory()
        flows = Flows(None, None, account)  # type: ignore[arg-type]
        bought = given_cents = 0
        for what, cents in moves:
            if what == "give":
                flows.give(cents)
                given_cents += cents
            elif what == "buy":
                flows.give(cents, Transfer.Kind.TOP_UP)
                bought += cents
            elif cents <= bought + given_cents:
                flows.spend(cents)
                of_given = min(cents, given_cents)
                given_cents -= of_given
                bought -= cents - of_given
        found = refund_selectors.find_bought_nanos(account) // 10_000_000
        transaction.set_rollback(True)
    assert found == bought


def test_tax_goes_back_in_proportion_and_in_the_end_exactly(flows: Flows, settings) -> None:
    settings.STRIPE_TAX = True
    flows.fake.order("tax", rate_bps=725)
    row = flows.buy(1_001)
    tax = row.tax_cents

    parts = [ask(flows, cents)[0] for cents in (333, 1, 334)] + ask(flows)

    assert sum(part.net_cents for part in parts) == 1_001
    assert sum(part.tax_cents for part in parts) == tax == 73
    assert all(part.tax_cents * 1_001 <= tax * part.net_cents + 1_001 for part in parts)
    assert sum(at_stripe(flows)) == 1_001 + tax
    assert cents_by_kind() == {"stripe_clearing": row.fee_cents, "stripe_fee": -row.fee_cents}
    assert broken() == set()


def test_the_same_request_twice_is_one_refund(flows: Flows) -> None:
    flows.buy(2_500)
    request_id = new_id()

    first = ask(flows, 1_000, request_id=request_id)
    again = ask(flows, 1_000, request_id=request_id)

    assert [row.pk for row in first] == [row.pk for row in again]
    assert at_stripe(flows) == [1_000]


def test_as_many_requests_a_day_as_there_may_be_and_one_more(flows: Flows) -> None:
    flows.buy(2_500)
    for _ in range(REQUESTS_PER_DAY_MAX):
        ask(flows, 1)

    with pytest.raises(LimitExceededError):
        ask(flows, 1)

    age(TopupRefund.objects, days=1, minutes=1)
    assert ask(flows, 1)


def test_a_frozen_account_gets_nothing_back_by_asking(flows: Flows) -> None:
    flows.buy()
    flows.account.frozen_at = timezone.now()
    flows.account.save()

    with pytest.raises(AccountFrozenError):
        ask(flows)


def test_what_was_paid_back_by_hand_at_stripe_is_not_paid_back_again(flows: Flows) -> None:
    row = flows.buy(2_500)
    body = {"payment_intent": row.payment_intent_id, "amount": "2000"}
    assert flows.fake.request("POST", "/v1/refunds", body, Idempotency_Key="by-hand").ok

    with pytest.raises(RefundTooLargeError) as caught:
        ask(flows, 501)

    assert caught.value.params["refundable_cents"] == 500
    assert ask(flows)[0].net_cents == 500


@pytest.mark.parametrize("kind", ["drop_after_effect", "error_after_effect", "reset"])
@pytest.mark.parametrize("is_late", [False, True])
def test_an_answer_that_was_lost_does_not_pay_back_twice(
    flows: Flows, quick: None, kind: str, is_late: bool
) -> None:
    flows.buy(2_500)
    flows.fake.order("faults", kind=kind, method="POST", path="/v1/refunds")
    (row,) = ask(flows, 1_000)
    assert (row.state, row.stripe_refund_id) == (State.IN_FLIGHT, None)
    assert cents_by_kind()["refund_in_flight"] == 1_000
    assert broken() == set()
    if is_late:
        # Stripe does not know the key any more: only the search can tell.
        flows.fake.order("clock", offset_s=2 * 86_400)
    age(TopupRefund.objects)

    for _ in range(3):
        poll_refunds()

    row.refresh_from_db()
    assert row.state == State.SUCCEEDED
    assert at_stripe(flows) == [1_000]
    assert StripeCall.objects.get(idempotency_key=f"refund:{row.pk}").state == "ok"
    assert flows.wallet_cents() == 1_500
    assert broken() == set()


def test_without_the_search_it_would_pay_back_twice(
    flows: Flows, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the test above would see."""
    flows.buy(2_500)
    flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/refunds")
    ask(flows, 1_000)
    flows.fake.order("clock", offset_s=2 * 86_400)
    age(TopupRefund.objects)
    monkeypatch.setattr(refund, "_find_lost", lambda row: None)

    poll_refunds()

    assert at_stripe(flows) == [1_000, 1_000]


def test_what_stripe_refuses_is_back_in_the_wallet(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = flows.buy(2_500)
    honest = StripeGateway.create_refund

    def be_slower(self, **more):
        # Somebody at Stripe's dashboard, between our look and our call.
        body = {"payment_intent": row.payment_intent_id}
        flows.fake.request("POST", "/v1/refunds", body, Idempotency_Key="by-hand")
        return honest(self, **more)

    monkeypatch.setattr(StripeGateway, "create_refund", be_slower)

    (back,) = ask(flows, 1_000)

    assert back.state == State.FAILED
    assert flows.wallet_cents() == 2_500
    assert "refund_in_flight" not in cents_by_kind()
    assert broken() == set()


def test_a_refund_that_is_pending_is_in_flight_until_it_is_done(flows: Flows) -> None:
    flows.buy(2_500, REFUND_SLOW)
    (row,) = ask(flows)
    assert row.state == State.IN_FLIGHT
    assert cents_by_kind()["refund_in_flight"] == 2_500

    flows.fake.order("clock", advance_s=7_200)
    age(TopupRefund.objects)
    assert poll_refunds() == 1

    row.refresh_from_db()
    assert row.state == State.SUCCEEDED
    assert "refund_in_flight" not in cents_by_kind()
    assert poll_refunds() == 0


def test_a_refund_that_fails_after_it_succeeded_comes_back(flows: Flows) -> None:
    topup = flows.buy(2_500, REFUND_FAILS)
    (row,) = ask(flows, 1_000)
    assert row.state == State.SUCCEEDED
    flows.fake.order("clock", advance_s=7_200)

    receive(flows.events() * 2)

    row.refresh_from_db()
    assert row.state == State.FAILED
    assert flows.wallet_cents() == 2_500
    assert cents_by_kind()["stripe_clearing"] == -(2_500 - topup.fee_cents)
    assert broken() == set()
    # What came back can be paid back again.
    assert sum_refundable_cents(flows.account) == 2_500


def test_a_refund_of_another_amount_at_stripe_is_left_alone(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows.buy(2_500)
    honest = StripeGateway.retrieve_refund
    monkeypatch.setattr(
        StripeGateway,
        "retrieve_refund",
        lambda self, refund_id: replace(honest(self, refund_id), amount=2_500),
    )

    (row,) = ask(flows, 1_000)

    assert row.state == State.IN_FLIGHT
    assert "2500" in row.note
    assert broken() == set()


@pytest.mark.parametrize("ending", ["succeeds", "fails"])
@pytest.mark.parametrize("seed", range(6))
def test_every_order_of_events_ends_in_the_same_ledger(
    flows: Flows, ending: str, seed: int
) -> None:
    """The whole life of a payment and its refund, told in any order, any number of times."""
    number = REFUND_FAILS if ending == "fails" else REFUND_SLOW
    topup = flows.buy(2_500, number)
    ask(flows, 1_000)
    draw = random.Random(seed)
    early = flows.events() * 2
    draw.shuffle(early)
    receive(early[: draw.randrange(len(early) + 1)])
    flows.fake.order("clock", advance_s=7_200)
    late = flows.events() * draw.randint(1, 3)
    draw.shuffle(late)

    receive(late)

    net, state = (2_500, "failed") if ending == "fails" else (1_500, "succeeded")
    fee = topup.fee_cents
    assert cents_by_kind() == {
        "wallet": net,
        "stripe_clearing": -(net - fee),
        "stripe_fee": -fee,
    }
    assert states() == {
        "topups": [("credited", 2_500, fee)],
        "refunds": [(state, 1_000, 0)],
        "disputes": [],
    }
    assert broken() == set()


@pytest.mark.django_db(transaction=True)
def test_two_at_once_do_not_overdraw(fake, owner: User, account: Account) -> None:
    flows = Flows(fake, Actor(user=owner), account)
    flows.buy(2_500)
    refused: list[Exception] = []
    gate = threading.Barrier(4)

    def go() -> None:
        try:
            gate.wait(10)
            ask(flows, 1_000)
        except (NothingToRefundError, RefundTooLargeError) as error:
            refused.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(refused) == 2
    assert at_stripe(flows) == [1_000, 1_000]
    assert flows.wallet_cents() == 500
    assert broken() == set()


def test_a_prediction_that_was_quicker_is_not_paid_back(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the booking: the wallet's own floor decides."""
    flows.buy(2_500)
    honest = refund._plan

    def be_slower(*arguments):
        parts = honest(*arguments)
        with monkeypatch.context() as patch:
            # It stands for somebody else's transaction, which is not watched as a part of this.
            patch.setattr(ledger, "post_transfer", ledger.post_transfer.__wrapped__)
            flows.spend(1)
        return parts

    monkeypatch.setattr(refund, "_plan", be_slower)

    with pytest.raises(NothingToRefundError):
        ask(flows)

    assert at_stripe(flows) == []
    assert not TopupRefund.objects.exists()
    assert flows.wallet_cents() == 2_500  # The spending was part of the same transaction here.
