"""Webhooks of each main flow in every order, lost in every combination, and doubled.

Stripe knows the end of a story, and we have been told nothing. Whatever comes then, in whatever
order and however often, and whatever does not come and is found by the polls: the ledger and the
rows are those of who was told everything in order.

Events that lead to the same look at the same object are one here: they differ in nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.utils import timezone

from billing.models import (
    ConnectAccount,
    Invoice,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    Topup,
    TopupRefund,
)
from billing.selectors.meter import HOUR, read_clock
from billing.services import dispute, fraud_warning, invoice, meter, refund, topup
from billing.services import payout as payouts
from billing.services.connect import poll_connect_accounts
from billing.services.stripe_client import get_stripe
from billing.services.stripe_event import HANDLERS, poll_undelivered, sweep_events
from embedded import ports
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing import test_payout
from tests.billing.conftest import Shop
from tests.billing.conftest import shop as shop  # noqa: PLC0414 - a fixture
from tests.billing.payouts import earn
from tests.billing.postpaid import age, install
from tests.billing.prepaid.flows import REFUND_FAILS, REFUND_SLOW, Flows, receive, states
from tests.billing.stand_in import asked_of, running
from tests.billing.test_ledger import broken
from tests.billing.test_payout import CENT, onboard
from tests.billing.test_postpaid_month import USED_DAYS, Month, agree
from tests.factories import MembershipFactory
from tests.fakestripe.process import FakeStripeProcess

pytestmark = pytest.mark.django_db(transaction=True)

Event = dict[str, Any]
READS = ("retrieve_", "list_", "find_", "summarize_")
# Of an order of calls nothing more is learnt by more of them.
CALLS_MAX = 4


@dataclass
class Remembering:
    """Stripe, once nothing happens there any more: what it said once it says again."""

    stripe: Any
    known: dict[Any, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self.stripe, name)
        if not name.startswith(READS):
            return inner

        def ask(*args: Any, **values: Any) -> Any:
            # By the hour: the polls ask for what came after a moment near now.
            key = name, repr(args), repr({n: v for n, v in values.items() if n != "created_from"})
            if key not in self.known:
                self.known[key] = inner(*args, **values)
            return self.known[key]

        return ask


@pytest.fixture(scope="module")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    # Nobody listens there: what we are told, these tests tell.
    nowhere = f"http://127.0.0.1:{ports.choose()}/"
    with running(tmp_path_factory.mktemp("stripe"), webhook_url=nowhere) as process:
        yield process


@pytest.fixture
def fake(_stripe: FakeStripeProcess, settings: Any) -> Iterator[FakeStripeProcess]:
    _stripe.reset()
    settings.STRIPE_TAX = False
    with asked_of(_stripe, settings):
        yield _stripe


@pytest.fixture
def flows(transactional_db: None, fake: FakeStripeProcess, owner: User, account: Account) -> Flows:
    return Flows(fake, Actor(user=owner), account)


@contextmanager
def told_nothing_new() -> Iterator[None]:
    """From here on nothing happens at Stripe."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, Remembering(get_stripe()))
        yield


# --- The stories --------------------------------------------------------------------


def pay_by_card(flows: Flows) -> None:
    flows.pay(flows.start(2_500))


def pay_by_bank(flows: Flows, *, succeeds: bool = True) -> None:
    row = flows.start(2_500)
    flows.fake.order(f"checkout/{row.checkout_session_id}/pay", delayed=True)
    flows.fake.order(f"checkout/{row.checkout_session_id}/settle", succeeds=succeeds)


def refuse_by_bank(flows: Flows) -> None:
    pay_by_bank(flows, succeeds=False)


def pay_back(flows: Flows, number: str = REFUND_SLOW) -> None:
    flows.buy(2_500, number)
    flows.fake.order("faults", kind="drop_after_effect", method="POST", path="/v1/refunds", times=3)
    refund.refund_unspent(flows.account, request_key="story", label="test", amount_cents=1_000)
    flows.fake.order("clock", advance_s=7_200)


def pay_back_in_vain(flows: Flows) -> None:
    pay_back(flows, REFUND_FAILS)


def dispute_and_lose(flows: Flows, status: str = "lost") -> None:
    row = flows.start(2_500)
    flows.pay(row)
    flows.close(flows.dispute(row), status)


def dispute_and_win(flows: Flows) -> None:
    dispute_and_lose(flows, "won")


PREPAID: dict[str, Callable[[Flows], None]] = {
    "top-up by card": pay_by_card,
    "top-up by bank": pay_by_bank,
    "top-up that the bank refuses": refuse_by_bank,
    "refund": pay_back,
    "refund that fails": pay_back_in_vain,
    "dispute lost": dispute_and_lose,
    "dispute won": dispute_and_win,
}


# --- In every order, and with everything lost ----------------------------------------


def read_sheet() -> dict[str, Any]:
    """The books and the rows, without times and ids of ours."""
    sheet = {
        (row.kind, row.holder_id): row.posted_nanos
        for row in LedgerAccount.objects.exclude(posted_nanos=0)
    }
    return states() | {
        "sheet": sheet,
        "frozen": sorted(Account.objects.exclude(frozen_at=None).values_list("slug", flat=True)),
        "payouts": sorted(PayoutItem.objects.values_list("state", "amount_cents")),
        "reversals": sorted(PayoutReversal.objects.values_list("state", "amount_cents")),
        "connect": sorted(ConnectAccount.objects.values_list("transfers_status", flat=True)),
        "invoices": sorted(
            Invoice.objects.values_list("state", "total_cents", "paid_cents", "check_state")
        ),
        # No gateway noted the answers to what is used here.
        "broken": broken() - {"usage-equals-answers"},
    }


def list_calls(fake: FakeStripeProcess) -> list[Event]:
    """One event for each look that Stripe's events ask for, in their order."""
    events = sorted(
        fake.state()["objects"].get("event", []), key=lambda one: (one.get("created", 0), one["id"])
    )
    calls = {
        (HANDLERS[one["type"]], one["data"]["object"]["id"]): one
        for one in events
        if one["type"] in HANDLERS and "object" in one.get("data", {})
    }
    return list(calls.values())


def poll() -> None:
    """All that the product asks by itself in a quarter of an hour."""
    for rows in (Topup.objects.all(), TopupRefund.objects.all()):
        rows.update(created_at=timezone.now() - timedelta(minutes=15), checked_at=None)
    topup.poll_topups()
    refund.poll_refunds()
    dispute.poll_disputes()
    fraud_warning.poll_fraud_warnings()
    poll_connect_accounts()
    payouts.advance_payouts()
    invoice.poll_invoices()


def tell(events: Sequence[Event]) -> dict[str, Any]:
    """What comes of these, told to who knew nothing; the books are put back."""
    with transaction.atomic():
        receive(events)
        # What came before what it is about is tried again, as each minute.
        sweep_events()
        found = read_sheet()
        transaction.set_rollback(True)
    return found


def lose(lost: Sequence[Event], calls: Sequence[Event], *, can_poll: bool) -> dict[str, Any]:
    """What comes of the others, and of the polls."""
    with transaction.atomic():
        receive([one for one in calls if one not in lost])
        if not can_poll:
            poll_undelivered()
        sweep_events()
        poll()
        found = read_sheet()
        transaction.set_rollback(True)
    return found


def check_all(calls: list[Event], *, can_poll: bool = True) -> int:
    """Tell the story in every order and with every loss; returns in how many ways.

    Args:
        calls: One event for each look.
        can_poll: Whether the polls find all of it without asking for undelivered events.
    """
    assert 1 <= len(calls) <= CALLS_MAX, [one["type"] for one in calls]
    expected = tell(calls)
    assert expected["sheet"] or expected["topups"]
    assert expected["broken"] == set()
    count = 0
    for order in itertools.permutations(calls):
        assert tell(order) == expected, [one["type"] for one in order]
        # Each once more, the last ones first.
        assert tell([*order, *reversed(order)]) == expected
        count += 2
    for size in range(1, len(calls) + 1):
        for lost in itertools.combinations(calls, size):
            assert lose(lost, calls, can_poll=can_poll) == expected, [one["type"] for one in lost]
            count += 1
    return count


@pytest.mark.parametrize("story", PREPAID)
def test_what_is_bought_paid_back_and_disputed(
    flows: Flows, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    monkeypatch.setattr("billing.stripe.client.RETRIES_MAX", 0)
    PREPAID[story](flows)

    with told_nothing_new():
        check_all(list_calls(flows.fake))


def test_what_is_paid_out_and_taken_back_at_stripe(fake: FakeStripeProcess, shop: Shop) -> None:
    fake.order("balance/move", amount=10_000_00)
    onboard(fake, shop.creator)
    earn(shop, 3_000 * CENT)
    item = test_payout.run_once()
    assert item.state == "paid"
    for cents in (1_000, 500):
        get_stripe().reverse_transfer(
            transfer_id=item.connect_transfer_id,
            amount_cents=cents,
            metadata={},
            idempotency_key=f"by hand:{cents}",
        )
    calls = list_calls(fake)

    with told_nothing_new():
        assert check_all(calls, can_poll=False) >= 3
        assert tell(calls)["reversals"] == [("done", 500), ("done", 1_000)]


@pytest.fixture
def used(shop: Shop, fake: FakeStripeProcess, platform_admin: User, owner: User) -> Month:
    """A month that was used on credit and reported; its invoice comes by Stripe's clock."""
    MembershipFactory(account=shop.consumer, user=owner, role="owner")
    month = Month(shop, fake, None, None)  # type: ignore[arg-type]
    month.at(62)
    month.terms = agree(shop, platform_admin)
    moment = read_clock() - timedelta(days=USED_DAYS, hours=2)
    type(month.terms).objects.update(activated_at=moment)
    month.use()
    age(USED_DAYS * 24)
    month.at(USED_DAYS - 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "read_clock", lambda: moment + 4 * HOUR)
        meter.seal_hours()
        assert meter.send_reports() == 1
    return month


def test_what_is_invoiced_and_paid(used: Month) -> None:
    used.at(0)
    with transaction.atomic():
        # Paid at Stripe, and forgotten here.
        invoice.poll_invoices()
        used.pay()
        transaction.set_rollback(True)
    calls = [one for one in list_calls(used.fake) if one["type"].startswith("invoice.")]

    with told_nothing_new():
        assert check_all(calls) >= 5
        assert ("paid", 100, 100, "agrees") in tell(calls)["invoices"]


# --- What is wrong on purpose ---------------------------------------------------------


def test_a_handler_that_needs_an_order_is_noticed(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes over a dispute whose payment it has not heard of."""
    dispute_and_lose(flows)
    settle = dispute.settle_dispute

    def settle_known(dispute_id: str) -> bool:
        return Topup.objects.filter(state="credited").exists() and settle(dispute_id)

    for kind, handle in HANDLERS.items():
        if handle is settle:
            monkeypatch.setitem(HANDLERS, kind, settle_known)
    monkeypatch.setattr(dispute, "settle_dispute", settle_known)

    with told_nothing_new(), pytest.raises(AssertionError):
        check_all(list_calls(flows.fake))


def test_a_repeat_that_is_booked_again_is_noticed(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is believed to be new each time it is told."""
    pay_back(flows)
    book = refund._book_sent

    def book_again(row: TopupRefund, *more: Any) -> Any:
        answer = book(row, *more)
        TopupRefund.objects.filter(pk=row.pk).update(state="in_flight")
        return answer

    monkeypatch.setattr(refund, "_book_sent", book_again)

    with told_nothing_new(), pytest.raises((AssertionError, DatabaseError)):
        check_all(list_calls(flows.fake))


def test_what_no_poll_looks_for_is_noticed(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    pay_by_card(flows)
    monkeypatch.setattr(topup, "poll_topups", lambda: 0)

    with told_nothing_new(), pytest.raises(AssertionError):
        check_all(list_calls(flows.fake))
