"""Money that people move: by four eyes where it is much, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction

from billing.models import Adjustment, LedgerAccount, Transfer
from billing.models.adjustment import ALONE_NANOS_MAX
from billing.services import adjustment as adjustments
from billing.services import ledger
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InsufficientCreditError,
    InvalidInputError,
    NotFoundError,
)
from marketplace.core.ids import new_id
from marketplace.core.money import AMOUNT_NANOS_MAX, NANOS_PER_DOLLAR
from marketplace.models import AuditEvent, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop, balances, query
from tests.billing.test_ledger import broken
from tests.factories import APIKeyFactory, UserFactory

pytestmark = pytest.mark.django_db

LIMIT_NANOS = 100 * NANOS_PER_DOLLAR
Fund = Callable[..., None]


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


@pytest.fixture
def second(db: None) -> Actor:
    return Actor(user=UserFactory(email="second@example.com", is_staff=True))


def credit(actor: Actor, shop: Shop, nanos: int, **more: str) -> Adjustment:
    arguments = {"reason": "The model was down.", "reference": "ticket 7"} | more
    return adjustments.propose_credit(actor, shop.consumer, amount_nanos=nanos, **arguments)


def account_id(kind: str, shop: Shop | None = None) -> object:
    holder_id = shop.consumer.pk if shop else None
    return ledger.get_ledger_account_id(LedgerAccount.Kind(kind), holder_id=holder_id)


def test_a_small_credit_is_there_at_once(shop: Shop, admin: Actor) -> None:
    row = credit(admin, shop, LIMIT_NANOS)

    assert (row.state, row.needs_two) == ("posted", False)
    assert balances()["wallet"] == (LIMIT_NANOS, 0)
    assert balances()["goodwill"] == (-LIMIT_NANOS, 0)
    assert Transfer.objects.get().kind == Transfer.Kind.CREDIT
    event = AuditEvent.objects.get(action="adjustment.propose")
    assert event.account_id == shop.consumer.pk
    assert event.payload["reason"] == "The model was down."
    assert broken() == set()


def test_above_the_limit_nothing_moves_before_another_one_agrees(
    shop: Shop, admin: Actor, second: Actor
) -> None:
    row = credit(admin, shop, LIMIT_NANOS + 1)

    assert (row.state, row.needs_two) == ("pending", True)
    assert not Transfer.objects.exists()

    assert adjustments.approve(second, row.pk, reason="Seen.").state == "posted"

    assert balances()["wallet"] == (LIMIT_NANOS + 1, 0)
    assert AuditEvent.objects.filter(action="adjustment.approve").count() == 1
    assert broken() == set()


def test_nobody_approves_or_refuses_what_they_proposed(shop: Shop, admin: Actor) -> None:
    row = credit(admin, shop, LIMIT_NANOS + 1)

    with pytest.raises(ForbiddenError):
        adjustments.approve(admin, row.pk)
    with pytest.raises(ForbiddenError):
        adjustments.refuse(admin, row.pk, reason="Mine.")

    assert not Transfer.objects.exists()


def test_a_large_sum_in_small_parts_needs_two_as_well(shop: Shop, admin: Actor) -> None:
    assert credit(admin, shop, LIMIT_NANOS - 1).state == "posted"
    assert credit(admin, shop, 1).state == "posted"

    assert credit(admin, shop, 1).state == "pending"
    assert balances()["wallet"] == (LIMIT_NANOS, 0)


def test_approved_twice_it_moves_once(shop: Shop, admin: Actor, second: Actor) -> None:
    row = credit(admin, shop, LIMIT_NANOS + 1)

    adjustments.approve(second, row.pk)
    assert adjustments.approve(second, row.pk).state == "posted"

    assert Transfer.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_who_approve_at_once_move_it_once(shop: Shop, admin: Actor) -> None:
    row = credit(admin, shop, LIMIT_NANOS + 1)
    actors = [Actor(user=UserFactory(email=f"a{n}@example.com", is_staff=True)) for n in range(6)]
    barrier = threading.Barrier(len(actors))
    states: list[str] = []

    def approve(actor: Actor) -> None:
        try:
            barrier.wait()
            states.append(adjustments.approve(actor, row.pk).state)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=approve, args=(actor,)) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert states == ["posted"] * len(actors)
    assert balances()["wallet"] == (LIMIT_NANOS + 1, 0)
    assert Transfer.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_at_once_nobody_moves_more_alone_than_one_may(shop: Shop, admin: Actor) -> None:
    barrier = threading.Barrier(6)
    states: list[str] = []

    def give() -> None:
        try:
            barrier.wait()
            states.append(credit(admin, shop, LIMIT_NANOS).state)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=give) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(states) == ["pending"] * 5 + ["posted"]


def test_what_was_withdrawn_or_refused_is_over(shop: Shop, admin: Actor, second: Actor) -> None:
    withdrawn, refused = (credit(admin, shop, LIMIT_NANOS + 1) for _ in range(2))
    with pytest.raises(ForbiddenError):
        adjustments.withdraw(second, withdrawn.pk)

    adjustments.withdraw(admin, withdrawn.pk)
    adjustments.refuse(second, refused.pk, reason="Not owed.")

    for row in (withdrawn, refused):
        for call in (
            lambda row=row: adjustments.approve(second, row.pk),
            lambda row=row: adjustments.refuse(second, row.pk, reason="Again."),
            lambda row=row: adjustments.withdraw(admin, row.pk),
        ):
            with pytest.raises(ConflictError):
                call()
    assert not Transfer.objects.exists()


@pytest.mark.parametrize("nanos", [0, -1, AMOUNT_NANOS_MAX + 1])
def test_an_amount_that_is_none_is_refused(shop: Shop, admin: Actor, nanos: int) -> None:
    with pytest.raises(InvalidInputError):
        credit(admin, shop, nanos)

    assert not Adjustment.objects.exists()


def test_the_largest_amount_waits(shop: Shop, admin: Actor) -> None:
    assert credit(admin, shop, AMOUNT_NANOS_MAX).state == "pending"


@pytest.mark.parametrize(
    "words", [{"reason": ""}, {"reason": "  "}, {"reason": "x" * 2_001}, {"reference": "x" * 121}]
)
def test_without_a_reason_nothing_moves(shop: Shop, admin: Actor, words: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        credit(admin, shop, 1, **words)

    assert not Adjustment.objects.exists()


def test_only_admins_in_a_session_may(shop: Shop, owner: User, admin: Actor) -> None:
    key = APIKeyFactory(account=shop.consumer)
    row = credit(admin, shop, LIMIT_NANOS + 1)
    inactive = Actor(user=UserFactory(email="gone@example.com", is_staff=True, is_active=False))

    for actor in (Actor(), Actor(user=owner), Actor(user=admin.user, api_key=key), inactive):
        for call in (
            lambda actor=actor: credit(actor, shop, 1),
            lambda actor=actor: adjustments.approve(actor, row.pk),
            lambda actor=actor: adjustments.refuse(actor, row.pk, reason="No."),
            lambda actor=actor: adjustments.withdraw(actor, row.pk),
        ):
            with pytest.raises(ForbiddenError):
                call()
    assert not Transfer.objects.exists()


def test_an_adjustment_that_the_wallet_does_not_pay_moves_nothing(
    shop: Shop, fund: Fund, admin: Actor, second: Actor
) -> None:
    fund(5)
    row = adjustments.propose_adjustment(
        admin,
        source_id=account_id("wallet", shop),
        target_id=account_id("goodwill"),
        amount_nanos=5,
        reason="Given by mistake.",
    )
    assert row.state == "posted"
    assert balances()["wallet"] == (0, 0)

    with pytest.raises(InsufficientCreditError):
        adjustments.propose_adjustment(
            admin,
            source_id=account_id("wallet", shop),
            target_id=account_id("goodwill"),
            amount_nanos=1,
            reason="Once more.",
        )
    assert Adjustment.objects.count() == 1


@pytest.mark.parametrize("kind", ["stripe_clearing", "stripe_fee", "refund_in_flight"])
def test_what_says_what_is_at_stripe_is_not_moved_by_hand(
    shop: Shop, admin: Actor, kind: str
) -> None:
    for source, target in (
        (account_id(kind), account_id("wallet", shop)),
        (account_id("wallet", shop), account_id(kind)),
        (account_id("goodwill"), new_id()),
        (account_id("goodwill"), account_id("goodwill")),
    ):
        with pytest.raises(InvalidInputError):
            adjustments.propose_adjustment(
                admin, source_id=source, target_id=target, amount_nanos=1, reason="Tidy up."
            )


def test_an_unknown_one_is_not_found(shop: Shop, admin: Actor) -> None:
    with pytest.raises(NotFoundError):
        adjustments.approve(admin, new_id())


def test_too_many_proposals_are_refused(
    shop: Shop, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adjustments, "PENDING_MAX", 2)
    for _ in range(2):
        credit(admin, shop, LIMIT_NANOS + 1)

    with pytest.raises(ConflictError):
        credit(admin, shop, LIMIT_NANOS + 1)


def test_no_setting_lets_one_person_move_more_than_the_database_allows(
    shop: Shop, admin: Actor, settings
) -> None:
    settings.ADJUSTMENT_ALONE_MAX_CENTS = 10**9

    assert credit(admin, shop, ALONE_NANOS_MAX + 1).state == "pending"
    assert credit(admin, shop, ALONE_NANOS_MAX).state == "posted"


# By SQL, behind the services' back: the database holds each rule by itself.
BYPASSES = {
    "approved by who proposed it": "UPDATE billing_adjustment SET state = 'posted',"
    " decided_by_id = created_by_id, decided_at = now()",
    "posted without a transfer": "UPDATE billing_adjustment SET state = 'posted',"
    " decided_by_id = %(second)s, decided_at = now()",
    "posted by a transfer of something else": "UPDATE billing_adjustment SET state = 'posted',"
    " decided_by_id = %(second)s, transfer_id = (SELECT id FROM billing_transfer LIMIT 1)",
    "made small": "UPDATE billing_adjustment SET amount_nanos = 1",
    "made a matter of one": "UPDATE billing_adjustment SET needs_two = false",
    "handed to somebody else": "UPDATE billing_adjustment SET target_id = source_id",
    "proposed by somebody else": "UPDATE billing_adjustment SET created_by_id = %(second)s",
    "given another reason": "UPDATE billing_adjustment SET reason = 'x'",
    "forgotten": "DELETE FROM billing_adjustment",
    "large and alone": "INSERT INTO billing_adjustment (id, kind, source_id, target_id,"
    " amount_nanos, reason, reference, needs_two, state, created_by_id, created_at,"
    " decision_reason) SELECT uuidv7(), kind, source_id, target_id, 1000000000001, 'x', '', false,"
    " 'pending', created_by_id, now(), '' FROM billing_adjustment",
    "decided from the start": "INSERT INTO billing_adjustment (id, kind, source_id, target_id,"
    " amount_nanos, reason, reference, needs_two, state, created_by_id, created_at,"
    " decision_reason, decided_by_id, transfer_id) SELECT uuidv7(), kind, source_id, target_id, 5,"
    " 'x', '', false, 'posted', created_by_id, now(), '', %(second)s,"
    " (SELECT id FROM billing_transfer LIMIT 1) FROM billing_adjustment",
}


@pytest.mark.parametrize("bypass", BYPASSES)
def test_the_database_refuses_to_be_talked_past(
    shop: Shop, fund: Fund, admin: Actor, second: Actor, bypass: str
) -> None:
    fund(5)
    credit(admin, shop, LIMIT_NANOS + 1)
    assert second.user is not None

    with (
        pytest.raises((DatabaseError, IntegrityError)),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(BYPASSES[bypass], {"second": str(second.user.pk)})

    assert Adjustment.objects.get().state == "pending"


def test_a_posted_one_cannot_be_opened_again(shop: Shop, admin: Actor) -> None:
    credit(admin, shop, 5)

    with pytest.raises(DatabaseError), transaction.atomic():
        query("UPDATE billing_adjustment SET state = 'pending' RETURNING 1")


def test_without_the_services_check_the_database_still_wants_two(
    shop: Shop, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a service that forgot who proposed it."""
    row = credit(admin, shop, LIMIT_NANOS + 1)
    monkeypatch.setattr(
        adjustments, "_require_pending", lambda one: setattr(one, "needs_two", False)
    )

    with pytest.raises((DatabaseError, IntegrityError)), transaction.atomic():
        adjustments.approve(admin, row.pk)

    assert not Transfer.objects.exists()
