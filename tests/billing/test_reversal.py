"""Predictions that are given back: once, never more than they cost, out of the right pockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import DatabaseError, connections, transaction

from billing.models import LedgerAccount, Royalty, Transfer, UsageEvent, UsageReversal
from billing.services import ledger
from billing.services.adjustment import propose_credit
from billing.services.release import release_earnings
from billing.services.reversal import reverse_usage
from marketplace.core import ids
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from marketplace.core.ids import new_id
from marketplace.models import AuditEvent, Membership, User
from marketplace.selectors.access import Actor
from marketplace.services import audit
from tests.billing import payouts
from tests.billing.conftest import PRICE_NANOS, Shop, balances, hold, query, settle
from tests.billing.reconciliation.reconciling import spoil
from tests.billing.test_ledger import broken, record_answer
from tests.factories import MembershipFactory, ModelVersionFactory, UserFactory

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def prediction_id(shop: Shop, fund: Fund) -> UUID:
    fund(5_000)
    found = hold(shop)
    record_answer(shop, found)
    assert settle(shop.item(found)) == ["settled"]
    return found


def give_back(actor: Actor, prediction_id: UUID, **more) -> UsageReversal:
    arguments = {"reason": "The answer was noise."} | more
    return reverse_usage(actor, ids.to_public(prediction_id), **arguments)


def test_the_whole_price_goes_back_to_where_it_came_from(
    shop: Shop, admin: Actor, prediction_id: UUID
) -> None:
    row = give_back(admin, prediction_id)

    assert (row.gross_nanos, row.creator_nanos, row.platform_nanos) == (1_001, 800, 201)
    assert balances() | {"creator_payable": (0, 0)} == {
        "stripe_clearing": (-5_000, 0),
        "wallet": (5_000, 0),
        "creator_reserve": (0, 0),
        "creator_payable": (0, 0),
        "platform_revenue": (0, 0),
    }
    transfer = Transfer.objects.get(kind=Transfer.Kind.USAGE_REVERSAL)
    assert transfer.idempotency_key == f"usage_reversal:{prediction_id}"
    assert transfer.reference == str(prediction_id)
    told = AuditEvent.objects.filter(action="prediction.give_back")
    assert set(told.values_list("account_id", flat=True)) == {shop.consumer.pk, shop.creator.pk}
    assert broken() == set()


@pytest.mark.parametrize("part", [1, 2, 500, PRICE_NANOS - 1])
def test_a_part_is_taken_from_both_as_they_shared_it(
    admin: Actor, prediction_id: UUID, part: int
) -> None:
    row = give_back(admin, prediction_id, gross_nanos=part)

    assert row.creator_nanos == 800 * part // 1_001
    assert row.platform_nanos <= 201
    assert balances()["wallet"] == (5_000 - PRICE_NANOS + part, 0)
    assert broken() == set()


@pytest.mark.parametrize("part", [1, 500, PRICE_NANOS])
def test_what_royalties_gave_to_others_comes_back_from_them(
    shop: Shop, fund: Fund, admin: Actor, part: int
) -> None:
    parent = ModelVersionFactory()
    owner = parent.model.account
    reserve_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_RESERVE, holder_id=owner.pk
    )
    Royalty.objects.create(
        version=shop.version, parent=parent, beneficiary=owner, reserve_id=reserve_id, bps=2_500
    )
    fund(5_000)
    found = hold(shop)
    record_answer(shop, found)
    settle(shop.item(found))
    assert LedgerAccount.objects.get(pk=reserve_id).posted_nanos == 200

    give_back(admin, found, gross_nanos=part)

    assert LedgerAccount.objects.get(pk=reserve_id).posted_nanos == 200 - 200 * part // 1_001
    assert "reversals-fit" not in broken()
    # The control: taken from the creator alone, it would not fit.
    payable_id = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=shop.creator.pk
    )
    spoil(
        "UPDATE billing_transferentry SET ledger_account_id = %s"
        " WHERE ledger_account_id = %s AND amount_nanos < 0",
        payable_id,
        reserve_id,
    )
    assert ("reversals-fit" in broken()) == (200 * part >= 1_001)


@pytest.mark.parametrize("part", [0, -1, PRICE_NANOS + 1])
def test_more_than_it_cost_does_not_go_back(admin: Actor, prediction_id: UUID, part: int) -> None:
    before = balances()

    with pytest.raises(InvalidInputError):
        give_back(admin, prediction_id, gross_nanos=part)
    # Nor past the service.
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query("SELECT * FROM billing_reverse_usage(%s, %s, %s)", new_id(), prediction_id, part)

    assert caught.value.__cause__.sqlstate == "SR422"
    assert balances() == before


def test_it_goes_back_once(admin: Actor, prediction_id: UUID) -> None:
    give_back(admin, prediction_id, gross_nanos=1)

    for part in (1, 2, None):
        with pytest.raises(ConflictError):
            give_back(admin, prediction_id, gross_nanos=part)

    assert UsageReversal.objects.count() == 1
    assert balances()["wallet"] == (4_000, 0)


@pytest.mark.django_db(transaction=True)
def test_at_once_it_goes_back_once(shop: Shop, fund: Fund, admin: Actor) -> None:
    fund(5_000)
    found = hold(shop)
    settle(shop.item(found))
    barrier = threading.Barrier(6)
    outcomes: list[str] = []

    def give() -> None:
        try:
            barrier.wait()
            give_back(admin, found)
            outcomes.append("given")
        except ConflictError:
            outcomes.append("before")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=give) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["before"] * 5 + ["given"]
    assert balances()["wallet"] == (5_000, 0)


def test_what_left_the_reserve_comes_out_of_the_payable(
    shop: Shop, admin: Actor, prediction_id: UUID
) -> None:
    payouts.shift_days(40)
    release_earnings(payouts.at(0))
    assert balances()["creator_payable"] == (800, 0)
    event = UsageEvent.objects.get()

    give_back(admin, event.pk, gross_nanos=501)

    assert balances()["creator_payable"] == (800 - 400, 0)
    assert balances()["creator_reserve"] == (0, 0)
    wanted = {"earnings-add-up", "releases-equal-days", "payouts-are-booked", "reversals-fit"}
    assert not wanted & broken()


def test_what_was_paid_out_is_owed(shop: Shop, fund: Fund, admin: Actor) -> None:
    payouts.pay_and_take_back(shop)
    before = balances()["creator_payable"][0]
    fund(5_000)
    found = hold(shop)
    settle(shop.item(found))
    reserve_id, payable_id = (
        ledger.get_ledger_account_id(kind, holder_id=shop.creator.pk)
        for kind in (LedgerAccount.Kind.CREATOR_RESERVE, LedgerAccount.Kind.CREATOR_PAYABLE)
    )
    # All of it has left the creator's accounts.
    loss_id = ledger.get_ledger_account_id(LedgerAccount.Kind.DISPUTE_LOSS)
    gone = {reserve_id: -800, payable_id: -before, loss_id: 800 + before}
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.REVERSAL,
        idempotency_key="gone",
        amounts_nanos={one: nanos for one, nanos in gone.items() if nanos},
    )

    give_back(admin, found)

    # Later earnings make up for it.
    assert balances()["creator_payable"] == (-800, 0)
    assert balances()["creator_reserve"] == (0, 0)


def test_the_creator_may_for_its_own_models_only(
    shop: Shop, prediction_id: UUID, owner: User, outsider: User
) -> None:
    creator = UserFactory(email="creator@example.com")
    MembershipFactory(account=shop.creator, user=creator, role=Membership.Role.OWNER)
    developer = UserFactory(email="developer@example.com")
    MembershipFactory(account=shop.creator, user=developer, role=Membership.Role.DEVELOPER)
    consumer = UserFactory(email="consumer@example.com")
    MembershipFactory(account=shop.consumer, user=consumer, role=Membership.Role.OWNER)

    for user in (outsider, consumer):
        with pytest.raises(NotFoundError):
            give_back(Actor(user=user), prediction_id)
    with pytest.raises(ForbiddenError):
        give_back(Actor(user=developer), prediction_id)
    with pytest.raises(NotFoundError):
        give_back(Actor(), prediction_id)
    assert not UsageReversal.objects.exists()

    row = give_back(Actor(user=creator), prediction_id)

    assert not row.is_by_platform
    # The consumer reads that it was the creator, not who of them.
    event = AuditEvent.objects.get(account_id=shop.consumer.pk, action="prediction.give_back")
    assert "creator@example.com" not in event.actor


@pytest.mark.parametrize("text", ["", "a" * 25, "a" * 26, "0" * 26, "ä" * 26])
def test_what_is_no_charge_is_not_found(admin: Actor, shop: Shop, text: str) -> None:
    with pytest.raises(NotFoundError):
        reverse_usage(admin, text, reason="No.")


def test_what_cost_nothing_is_not_given_back(shop: Shop, fund: Fund, admin: Actor) -> None:
    free = new_id()
    settle(shop.item(free, mode="test", gross_nanos=0))

    with pytest.raises(NotFoundError):
        give_back(admin, free)
    assert UsageEvent.objects.count() == 1


@pytest.mark.parametrize("reason", ["", " \n", "x" * 2_001])
def test_it_has_a_reason(admin: Actor, prediction_id: UUID, reason: str) -> None:
    with pytest.raises(InvalidInputError):
        give_back(admin, prediction_id, reason=reason)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE billing_usagereversal SET gross_nanos = 1", "DELETE FROM billing_usagereversal"],
)
def test_what_went_back_is_not_changed(admin: Actor, prediction_id: UUID, statement: str) -> None:
    give_back(admin, prediction_id)

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query(f"{statement} RETURNING 1")

    assert caught.value.__cause__.sqlstate == "SR423"


def test_the_gateway_may_not_give_back(database_urls: dict[str, str], db: None) -> None:
    import psycopg

    statement = "SELECT * FROM billing_reverse_usage(uuidv7(), uuidv7(), 1)"
    with (
        psycopg.connect(database_urls["gateway"]) as gateway,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        gateway.execute(statement)
    # The control: the web may, and is told that there is no such charge.
    with psycopg.connect(database_urls["app"]) as web, pytest.raises(psycopg.Error) as caught:
        web.execute(statement)
    assert caught.value.sqlstate == "SR404"


@pytest.mark.django_db(transaction=True)
def test_a_credit_at_the_same_time_does_not_wait_in_a_circle(
    shop: Shop, admin: Actor, prediction_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write into the wallet and into its account's log, which are locks."""
    is_locked, is_logged = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    kept = audit.record

    def record(actor_label: str, action: str, *args, **more) -> None:
        if action == "prediction.give_back":
            is_locked.set()
            is_logged.wait(1)
        kept(actor_label, action, *args, **more)
        if action == "adjustment.propose":
            is_logged.set()

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except DatabaseError as error:
            failures.append(error)
        finally:
            connections.close_all()

    def credit() -> None:
        assert is_locked.wait(10)
        propose_credit(admin, shop.consumer, amount_nanos=7, reason="Sorry.")

    monkeypatch.setattr(audit, "record", record)
    works = [lambda: give_back(admin, prediction_id), credit]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    assert balances()["wallet"] == (5_007, 0)
    assert broken() == set()
