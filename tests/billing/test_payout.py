"""Creators are paid once, whatever fails when; against the stand-in for Stripe as a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from billing.models import (
    ConnectAccount,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    PayoutRun,
    StripeCall,
)
from billing.selectors import payout as selectors
from billing.selectors.payout import find_balances, find_obstacle, sum_reversed_cents
from billing.services import payout, stripe_client
from billing.services.connect import start_onboarding
from billing.services.payout import (
    WAITS_FOR_BALANCE,
    advance_item,
    advance_payouts,
    settle_transfer,
    start_due_run,
    start_run,
    take_back,
)
from billing.stripe.client import StripeGateway
from fakestripe.faults import AFTER_EFFECT, BEFORE_EFFECT
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account, AuditEvent, Membership, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop, query
from tests.billing.payouts import broken, correct, earn, run_worker
from tests.billing.stand_in import asked_of, running
from tests.fakestripe.process import SECRET_KEY, FakeStripeProcess
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db(transaction=True)

CENT = NANOS_PER_CENT
MINIMUM = 2_500 * CENT
PAYABLE = LedgerAccount.Kind.CREATOR_PAYABLE
State = PayoutItem.State


@pytest.fixture(scope="module")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    with running(tmp_path_factory.mktemp("stripe")) as process:
        yield process


@pytest.fixture
def fake(_stripe, settings) -> Iterator[FakeStripeProcess]:
    _stripe.reset()
    with asked_of(_stripe, settings):
        yield _stripe


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


def onboard(fake: FakeStripeProcess, creator: Account) -> ConnectAccount:
    """As a creator that gave Stripe all that it asks for."""
    user = User.objects.create_user(f"{new_id()}@x.example", "a good long password")
    Membership.objects.create(account=creator, user=user, role="owner")
    start_onboarding(Actor(user=user), creator, country="DE")
    row = ConnectAccount.objects.get(creator=creator)
    fake.order(f"accounts/{row.connect_account_id}/onboard")
    fake_stripe = stripe_client.get_stripe().retrieve_creator_account(row.connect_account_id)
    row.transfers_status, row.requirements = fake_stripe.transfers_status, []
    row.save()
    return row


@pytest.fixture
def creator(fake: FakeStripeProcess, shop: Shop) -> ConnectAccount:
    """One that can be paid, and a platform that can pay."""
    fake.order("balance/move", amount=10_000_00)
    return onboard(fake, shop.creator)


def posted(shop: Shop) -> tuple[int, int]:
    """What is payable and what is on its way, in nanos."""
    found = find_balances(shop.creator)
    return found.payable_nanos, found.in_flight_nanos


def run_once() -> PayoutItem:
    """A payday, and what it makes of its only item."""
    PayoutRun.objects.update(payday=None)
    run = start_due_run()
    assert run is not None
    advance_payouts()
    return run.items.get()


def transfers(fake: FakeStripeProcess) -> list[dict[str, Any]]:
    return fake.state()["objects"].get("transfer", [])


# --- Who is paid, and how much -----------------------------------------------------


def test_a_payable_is_paid_in_whole_cents_and_the_rest_stays(fake, shop, creator, owner) -> None:
    Membership.objects.create(account=shop.creator, user=owner, role="billing")
    earn(shop, 3_000 * CENT + 1_234_567)

    item = run_once()

    assert (item.state, item.amount_cents, item.attempt) == (State.PAID, 3_000, 1)
    assert posted(shop) == (1_234_567, 0)
    (sent,) = transfers(fake)
    assert (sent["id"], sent["amount"]) == (item.connect_transfer_id, 3_000)
    assert sent["destination"] == creator.connect_account_id
    assert sent["metadata"] == {"payout": str(item.pk), "creator": str(shop.creator.pk)}
    line = ("owner@example.com", "A payout of $30.00 was sent")
    assert line in list_told("payout")
    assert find_balances(shop.creator).paid_nanos == 3_000 * CENT
    assert broken() == set()


@pytest.mark.parametrize(("nanos", "is_paid"), [(MINIMUM, True), (MINIMUM - 1, False)])
def test_the_minimum_and_one_nano_below(fake, shop, creator, nanos: int, is_paid: bool) -> None:
    earn(shop, nanos)

    run = start_due_run()

    assert run is not None
    assert run.items.exists() is is_paid
    obstacle = find_obstacle(shop.creator)
    assert obstacle is not None
    assert obstacle.code == ("payout_open" if is_paid else "below_minimum")
    assert broken() == set()


def test_the_largest_amount_leaves_the_rest(fake, shop, creator, monkeypatch) -> None:
    monkeypatch.setattr(selectors, "AMOUNT_CENTS_MAX", 3_000)
    earn(shop, 3_001 * CENT)

    assert run_once().amount_cents == 3_000
    assert posted(shop) == (CENT, 0)


def refuse_by(name: str, fake: FakeStripeProcess, row: ConnectAccount) -> None:
    match name:
        case "account_suspended":
            Account.objects.filter(pk=row.creator_id).update(suspended_at=timezone.now())
        case "requirements_due":
            fake.order(
                f"accounts/{row.connect_account_id}/capability", status="active", due="identity.x"
            )
        case "transfers_inactive":
            fake.order(f"accounts/{row.connect_account_id}/capability", status="restricted")


@pytest.mark.parametrize("name", ["account_suspended", "requirements_due", "transfers_inactive"])
def test_who_may_not_be_paid_any_more_is_not_paid_mid_run(fake, shop, creator, name: str) -> None:
    """The run has begun, and the money is on its way: it becomes payable again."""
    earn(shop, MINIMUM)
    run = start_due_run()
    assert run is not None
    assert posted(shop) == (0, MINIMUM)
    refuse_by(name, fake, creator)

    advance_payouts()

    item = run.items.get()
    assert (item.state, item.connect_transfer_id) == (State.REFUSED, None)
    assert item.reason
    assert posted(shop) == (MINIMUM, 0)
    shop.creator.refresh_from_db()
    obstacle = find_obstacle(shop.creator)
    assert obstacle is not None
    assert obstacle.code == name
    assert transfers(fake) == []
    # And the next run passes over.
    PayoutRun.objects.update(payday=None)
    assert not start_due_run().items.exists()
    assert broken() == set()


def test_a_hold_on_payouts_stops_a_run_and_what_it_began(fake, shop, creator, monkeypatch) -> None:
    earn(shop, MINIMUM)
    run = start_due_run()
    monkeypatch.setattr(selectors, "has_payout_hold", lambda creator: True)

    advance_payouts()

    assert run.items.get().state == State.REFUSED
    assert find_obstacle(shop.creator).code == "payout_hold"
    PayoutRun.objects.update(payday=None)
    assert not start_due_run().items.exists()


def test_a_capability_that_goes_between_the_look_and_the_request(
    fake, shop, creator, monkeypatch
) -> None:
    earn(shop, MINIMUM)
    look = payout._may_be_sent

    def lose(item: PayoutItem) -> bool:
        answer = look(item)
        refuse_by("transfers_inactive", fake, creator)
        return answer

    monkeypatch.setattr(payout, "_may_be_sent", lose)

    item = run_once()

    assert item.state == State.REFUSED
    assert "insufficient_capabilities_for_transfer" in item.reason
    assert posted(shop) == (MINIMUM, 0)
    assert broken() == set()


def test_what_was_taken_back_carries_forward_and_is_made_up_for(fake, shop, creator) -> None:
    correct(shop, -5 * CENT, PAYABLE)
    assert find_obstacle(shop.creator).code == "payable_negative"
    earn(shop, MINIMUM)
    assert not start_due_run().items.exists()
    earn(shop, 5 * CENT)

    assert run_once().amount_cents == 2_500
    assert broken() == set()


def test_who_was_never_asked_by_stripe_is_not_paid(fake, shop) -> None:
    earn(shop, MINIMUM)

    assert find_obstacle(shop.creator).code == "onboarding_missing"
    assert not start_due_run().items.exists()


def test_one_open_payout_at_a_time(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    start_due_run()
    earn(shop, MINIMUM)
    PayoutRun.objects.update(payday=None)

    assert not start_due_run().items.exists()
    advance_payouts()
    assert run_once().amount_cents == 2_500


# --- When --------------------------------------------------------------------------


def test_a_payday_begins_one_run_and_a_missed_one_is_made_up_for(fake, shop, settings) -> None:
    settings.PAYOUT_WEEKDAY = 2
    wednesday = datetime(2026, 11, 25, 0, 0, tzinfo=UTC)

    run = start_due_run(wednesday)
    assert run.payday == wednesday.date()
    for later in (timedelta(hours=1), timedelta(days=6, hours=23)):
        assert start_due_run(wednesday + later) is None
    assert start_due_run(wednesday + timedelta(days=9)).payday == date(2026, 12, 2)


def test_workers_that_begin_at_once_begin_one_run(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    in_threads(4, start_due_run)

    assert PayoutRun.objects.count() == 1
    assert PayoutItem.objects.count() == 1
    assert posted(shop) == (0, MINIMUM)


def test_an_admin_begins_a_run_and_nobody_else(fake, shop, creator, admin, owner) -> None:
    earn(shop, MINIMUM)
    with pytest.raises(ForbiddenError):
        start_run(Actor(user=owner))
    assert not PayoutRun.objects.exists()

    run = start_run(admin)

    assert (run.payday, run.started_by, run.items.count()) == (None, admin.user, 1)
    assert AuditEvent.objects.get(action="payout.start_run").payload == {"items": 1}
    assert start_run(admin).items.count() == 0


def test_a_run_has_so_many_items_and_the_largest_come_first(
    fake, shop, creator, monkeypatch
) -> None:
    monkeypatch.setattr(payout, "ITEMS_PER_RUN_MAX", 1)
    earn(shop, MINIMUM)
    rich = Account.objects.create(slug="rich", name="Rich")
    onboard(fake, rich)
    shop.creator, poor = rich, shop.creator
    earn(shop, 2 * MINIMUM)

    assert run_once().creator == rich
    assert run_once().creator == poor


# --- What Stripe does --------------------------------------------------------------


def test_without_balance_an_item_waits_and_is_paid_once_there_is_some(fake, shop) -> None:
    onboard(fake, shop.creator)
    earn(shop, MINIMUM)

    item = run_once()
    assert (item.state, item.reason, item.attempt) == (State.WAITING, WAITS_FOR_BALANCE, 0)
    assert posted(shop) == (0, MINIMUM)
    assert broken() == set()

    fake.order("balance/move", amount=2_499)
    assert advance_item(item.pk).state == State.WAITING
    fake.order("balance/move", amount=1)
    item = advance_item(item.pk)
    assert (item.state, item.reason) == (State.PAID, "")
    assert len(transfers(fake)) == 1


def test_a_balance_that_goes_between_the_look_and_the_request(
    fake, shop, creator, monkeypatch
) -> None:
    """Stripe keeps the refusal under the key: the next attempt has another."""
    earn(shop, MINIMUM)
    look = payout._may_be_sent

    def lose(item: PayoutItem) -> bool:
        answer = look(item)
        fake.order("balance/move", amount=-10_000_00)
        return answer

    monkeypatch.setattr(payout, "_may_be_sent", lose)
    item = run_once()
    assert (item.state, item.reason, item.attempt) == (State.WAITING, WAITS_FOR_BALANCE, 1)
    monkeypatch.undo()
    fake.order("balance/move", amount=10_000_00)

    item = advance_item(item.pk)

    assert (item.state, item.attempt) == (State.PAID, 2)
    assert len(transfers(fake)) == 1
    assert broken() == set()


def run_without_answer(fake: FakeStripeProcess, kind: str) -> PayoutItem:
    """A payday on which Stripe's answers are lost, with all tries that the SDK makes."""
    fake.order("faults", kind=kind, path="/v1/transfers", method="POST", times=9)
    item = run_once()
    assert requests.delete(f"{fake.url}/_test/faults", timeout=10).ok
    return item


@pytest.mark.parametrize("kind", [*BEFORE_EFFECT, *AFTER_EFFECT])
def test_an_answer_that_does_not_come_is_asked_for_again(fake, shop, creator, kind: str) -> None:
    earn(shop, MINIMUM)
    item = run_without_answer(fake, kind)
    assert (item.state, item.attempt) == (State.SENDING, 1)
    assert posted(shop) == (0, MINIMUM)
    assert broken() == set()

    age_and_finish(fake, item)

    assert len(transfers(fake)) == 1
    assert posted(shop) == (0, 0)
    assert broken() == set()


def age_and_finish(fake: FakeStripeProcess, item: PayoutItem) -> None:
    """Advance at once; what Stripe answers with a kept error, a day later."""
    advance_payouts()
    item.refresh_from_db()
    if item.state != State.PAID:
        age_calls(hours=25)
        fake.order("clock", advance_s=25 * 3_600)
        advance_payouts()
        item.refresh_from_db()
    assert item.state == State.PAID


def age_calls(*, hours: float) -> None:
    sent_at = timezone.now() - timedelta(hours=hours)
    StripeCall.objects.update(first_sent_at=sent_at)
    still_open = PayoutItem.objects.filter(state__in=PayoutItem.OPEN_STATES)
    still_open.update(created_at=sent_at - timedelta(hours=1))


def test_after_a_day_the_transfer_is_looked_for_before_another_is_made(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    item = run_without_answer(fake, "drop_after_effect")
    age_calls(hours=25)
    # Stripe has forgotten the key: the same request would pay once more.
    fake.order("clock", advance_s=25 * 3_600)

    advance_payouts()

    item.refresh_from_db()
    assert (item.state, item.attempt) == (State.PAID, 1)
    assert len(transfers(fake)) == 1


def test_control_who_repeats_after_a_day_pays_twice(fake, shop, creator, monkeypatch) -> None:
    monkeypatch.setattr(payout, "_may_repeat", lambda call: True)
    test_case = test_after_a_day_the_transfer_is_looked_for_before_another_is_made

    with pytest.raises(AssertionError):
        test_case(fake, shop, creator)

    assert len(transfers(fake)) == 2


def test_after_a_day_a_transfer_that_was_never_made_is_made(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    item = run_without_answer(fake, "reset")
    age_calls(hours=25)

    advance_payouts()

    item.refresh_from_db()
    assert (item.state, item.attempt) == (State.PAID, 2)
    assert len(transfers(fake)) == 1


@pytest.mark.parametrize(
    ("hours", "is_sent"), [(19.9, True), (20.1, False), (20.9, False), (21.1, True)]
)
def test_between_the_two_nothing_is_done(fake, shop, creator, hours: float, is_sent: bool) -> None:
    """A slow request of the one time cannot meet the first of the other."""
    earn(shop, MINIMUM)
    item = run_without_answer(fake, "reset")
    age_calls(hours=hours)

    advance_payouts()

    item.refresh_from_db()
    assert item.state == (State.PAID if is_sent else State.SENDING)


def test_an_item_that_stripe_fails_on_holds_up_nobody(fake, shop, creator) -> None:
    """Stripe keeps an error under a key, and answers with it for a day."""
    earn(shop, MINIMUM)
    stuck = run_without_answer(fake, "error_after_effect")
    rich = Account.objects.create(slug="rich", name="Rich")
    onboard(fake, rich)
    shop.creator = rich
    earn(shop, 2 * MINIMUM)
    PayoutRun.objects.update(payday=None)
    start_due_run()

    for _ in range(2):
        advance_payouts()

    assert PayoutItem.objects.get(creator=rich).state == State.PAID
    stuck.refresh_from_db()
    assert stuck.state == State.SENDING


def test_while_stripe_is_silent_nothing_is_lost(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    start_due_run()
    fake.kill()
    try:
        assert advance_payouts() == 1
        assert PayoutItem.objects.get().state == State.WAITING
    finally:
        fake.start()

    advance_payouts()
    assert PayoutItem.objects.get().state == State.PAID


def test_a_transfer_that_is_not_ours_is_left_to_a_person(
    fake, shop, creator, monkeypatch, caplog
) -> None:
    earn(shop, MINIMUM)
    item = run_without_answer(fake, "drop_after_effect")
    age_calls(hours=25)
    kept = StripeGateway.list_transfers

    def lie(gateway: StripeGateway, **asked: Any) -> list[Any]:
        import dataclasses

        return [dataclasses.replace(one, amount=1) for one in kept(gateway, **asked)]

    monkeypatch.setattr(StripeGateway, "list_transfers", lie)

    advance_payouts()

    item.refresh_from_db()
    assert item.state == State.SENDING
    assert "is not that of payout" in caplog.text


# --- Who dies when -----------------------------------------------------------------


STEPS = [
    "in the run's transaction",
    "after the run's commit",
    "before the attempt",
    "after the attempt",
    "before the outbox row",
    "before the request",
    "after the request",
    "after the outbox row",
    "in the booking",
    "after the booking",
]


def die_at(step: str, fake: FakeStripeProcess, database_url: str) -> None:
    """A worker that is killed there."""
    run_worker(
        step,
        database_url,
        STRONGROOM_STRIPE_SECRET_KEY=SECRET_KEY,
        STRONGROOM_STRIPE_API_BASE=fake.url,
    )


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_creator_is_paid_once(
    fake, shop, creator, database_urls, step: str
) -> None:
    earn(shop, MINIMUM + 7)

    die_at(step, fake, database_urls["app"])

    assert broken() == set()
    start_due_run()
    advance_payouts()
    item = PayoutItem.objects.get()
    assert (item.state, item.amount_cents) == (State.PAID, 2_500)
    assert len(transfers(fake)) == 1
    assert posted(shop) == (7, 0)
    assert broken() == set()


def test_control_a_random_key_pays_twice(fake, shop, creator, monkeypatch) -> None:
    monkeypatch.setattr(payout, "_key_of", lambda item: f"payout:{new_id()}")
    earn(shop, MINIMUM)
    item = run_without_answer(fake, "drop_after_effect")
    assert item.state == State.SENDING

    advance_payouts()

    assert len(transfers(fake)) == 2


def test_control_a_request_before_its_row_pays_twice(fake, shop, creator, monkeypatch) -> None:
    """Nobody knows then how old the request is, and the key is forgotten."""

    def call_first(endpoint: str, key: str, params: object, action: Callable[[], Any]) -> Any:
        answer = action()
        StripeCall.objects.create(idempotency_key=key, endpoint=endpoint, params_sha256="")
        return answer

    monkeypatch.setattr(payout, "call_stripe", call_first)
    earn(shop, MINIMUM)
    assert run_without_answer(fake, "drop_after_effect").state == State.SENDING
    fake.order("clock", advance_s=25 * 3_600)

    advance_payouts()

    assert len(transfers(fake)) == 2


def in_threads(count: int, work: Callable[[], Any]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_workers_that_pay_at_once_pay_once(fake, shop, creator) -> None:
    earn(shop, MINIMUM)
    start_due_run()

    in_threads(4, advance_payouts)

    assert PayoutItem.objects.get().state == State.PAID
    assert len(transfers(fake)) == 1
    assert broken() == set()


def test_even_without_the_lock_workers_pay_once(fake, shop, creator, monkeypatch) -> None:
    """What is sent twice is sent under one key."""
    from contextlib import contextmanager

    @contextmanager
    def unlocked(_space: int, _row_id: object) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(payout, "hold_row", unlocked)
    earn(shop, MINIMUM)
    start_due_run()

    in_threads(4, advance_payouts)
    advance_payouts()

    assert PayoutItem.objects.get().state == State.PAID
    assert len(transfers(fake)) == 1
    assert broken() == set()


# --- Taking back -------------------------------------------------------------------


def paid(shop: Shop, cents: int = 2_500) -> PayoutItem:
    earn(shop, cents * CENT)
    item = run_once()
    assert item.state == State.PAID
    return item


def back(admin: Actor, item: PayoutItem, cents: int, *, is_forfeited: bool = True) -> Any:
    row = take_back(
        admin, item, amount_cents=cents, is_forfeited=is_forfeited, reason="Stolen cards."
    )
    advance_payouts()
    row.refresh_from_db()
    return row


def test_part_and_rest_of_a_payout_are_taken_back(fake, shop, creator, admin) -> None:
    item = paid(shop)

    row = back(admin, item, 1_000)
    assert row.state == PayoutReversal.State.DONE
    # The creator lost it, and gave it back: nothing is owed either way.
    assert posted(shop) == (0, 0)
    assert find_balances(shop.creator).paid_nanos == 1_500 * CENT
    assert broken() == set()

    for cents in (0, 1_501):
        with pytest.raises(InvalidInputError):
            take_back(admin, item, amount_cents=cents, is_forfeited=True, reason="x")
    assert back(admin, item, 1_500).state == PayoutReversal.State.DONE
    assert find_balances(shop.creator).paid_nanos == 0
    assert transfers(fake)[0]["amount_reversed"] == 2_500
    event = AuditEvent.objects.filter(action="payout.take_back").first()
    assert event.payload["reason"] == "Stolen cards."
    assert broken() == set()


def test_what_is_not_forfeited_becomes_payable_again(fake, shop, creator, admin) -> None:
    item = paid(shop)

    back(admin, item, 1_000, is_forfeited=False)

    assert posted(shop) == (1_000 * CENT, 0)
    assert broken() == set()


def test_what_the_creator_does_not_have_any_more_is_carried_forward(
    fake, shop, creator, admin
) -> None:
    item = paid(shop)
    fake.order(f"accounts/{creator.connect_account_id}/spend", amount=2_000)

    row = back(admin, item, 1_000)

    assert row.state == PayoutReversal.State.REFUSED
    assert "balance_insufficient" in row.note
    assert posted(shop) == (-1_000 * CENT, 0)
    assert find_obstacle(shop.creator).code == "payable_negative"
    assert sum_reversed_cents(item) == 0
    assert broken() == set()
    # New earnings make up for it.
    earn(shop, 3_500 * CENT)
    assert run_once().amount_cents == 2_500
    assert broken() == set()


def test_only_admins_take_back_and_only_what_was_paid(fake, shop, creator, admin, owner) -> None:
    item = paid(shop)
    with pytest.raises(ForbiddenError):
        take_back(Actor(user=owner), item, amount_cents=1, is_forfeited=True, reason="x")
    earn(shop, MINIMUM)
    PayoutRun.objects.update(payday=None)
    waiting = start_due_run().items.get()
    with pytest.raises(ConflictError):
        take_back(admin, waiting, amount_cents=1, is_forfeited=True, reason="x")
    assert not PayoutReversal.objects.exists()


@pytest.mark.parametrize("age_h", [0, 25])
def test_a_reversal_whose_answer_is_lost_is_made_once(
    fake, shop, creator, admin, age_h: int
) -> None:
    item = paid(shop)
    fake.order("faults", kind="drop_after_effect", path="*/reversals", method="POST", times=3)
    row = back(admin, item, 1_000)
    assert row.state == PayoutReversal.State.SENDING
    age_calls(hours=age_h)
    fake.order("clock", advance_s=age_h * 3_600)

    advance_payouts()

    row.refresh_from_db()
    assert row.state == PayoutReversal.State.DONE
    assert transfers(fake)[0]["amount_reversed"] == 1_000
    assert broken() == set()


def test_a_reversal_that_never_arrived_is_refused_after_a_day(fake, shop, creator, admin) -> None:
    item = paid(shop)
    fake.order("faults", kind="reset", path="*/reversals", method="POST", times=3)
    row = back(admin, item, 1_000)
    age_calls(hours=25)

    advance_payouts()

    row.refresh_from_db()
    assert row.state == PayoutReversal.State.REFUSED
    assert posted(shop) == (-1_000 * CENT, 0)
    assert broken() == set()


@pytest.mark.parametrize(
    "step", ["before the reversal", "after the reversal", "after the reversal's booking"]
)
def test_killed_at_any_step_a_reversal_is_made_once(
    fake, shop, creator, admin, database_urls, step: str
) -> None:
    item = paid(shop)
    take_back(admin, item, amount_cents=1_000, is_forfeited=True, reason="x")

    die_at(step, fake, database_urls["app"])
    advance_payouts()

    assert PayoutReversal.objects.get().state == PayoutReversal.State.DONE
    assert transfers(fake)[0]["amount_reversed"] == 1_000
    assert posted(shop) == (0, 0)
    assert broken() == set()


def test_what_somebody_takes_back_at_stripe_is_booked_once(fake, shop, creator, admin) -> None:
    item = paid(shop)
    back(admin, item, 500)
    stripe_client.get_stripe().reverse_transfer(
        transfer_id=item.connect_transfer_id,
        amount_cents=1_000,
        metadata={},
        idempotency_key="by hand",
    )

    for _ in range(2):
        assert settle_transfer(item.connect_transfer_id) is True

    assert sorted(PayoutReversal.objects.values_list("amount_cents", flat=True)) == [500, 1_000]
    assert posted(shop) == (1_000 * CENT, 0)
    assert broken() == set()
    assert settle_transfer("tr_unknown") is False


def test_the_event_settles_a_reversal_whose_answer_was_lost(fake, shop, creator, admin) -> None:
    item = paid(shop)
    fake.order("faults", kind="drop_after_effect", path="*/reversals", method="POST", times=3)
    row = back(admin, item, 1_000)

    settle_transfer(item.connect_transfer_id)
    advance_payouts()

    row.refresh_from_db()
    assert row.state == PayoutReversal.State.DONE
    assert PayoutReversal.objects.count() == 1
    assert broken() == set()


# --- What the database refuses -----------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM billing_payoutitem",
        "UPDATE billing_payoutitem SET amount_cents = 1",
        "UPDATE billing_payoutitem SET destination = 'x'",
        "UPDATE billing_payoutitem SET state = 'waiting', connect_transfer_id = NULL",
        "DELETE FROM billing_payoutreversal",
        "UPDATE billing_payoutreversal SET amount_cents = 1",
        "UPDATE billing_payoutreversal SET state = 'sending', connect_reversal_id = NULL",
    ],
)
def test_the_database_keeps_what_is_certain(fake, shop, creator, admin, change: str) -> None:
    back(admin, paid(shop), 1_000)

    with pytest.raises(DatabaseError, match="final"), transaction.atomic():
        query(f"{change} RETURNING 1")


def test_a_balance_may_not_go_below_what_is_on_its_way(fake, shop, creator) -> None:
    """Nobody can take from what is on its way but its own payout."""
    earn(shop, MINIMUM)
    start_due_run()
    with pytest.raises(ConflictError):
        payout._may_repeat(StripeCall(first_sent_at=timezone.now() - timedelta(hours=20.5)))
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_ledgeraccount SET posted_nanos = -1 WHERE kind = 'payout_in_flight'"
        )
