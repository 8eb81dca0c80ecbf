"""Royalties: parts of what a version earns go to the owners of what it was made from."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.test import Client

from billing.models import LedgerAccount, Royalty, RoyaltyShare, Transfer, UsageEvent
from billing.selectors.royalty import sum_royalties_given, sum_royalties_received
from billing.services.royalty import ROYALTIES_MAX, end_royalty, promise_royalty
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, AuditEvent, ModelVersion, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, hold, reserve, settle
from tests.billing.test_ledger import broken, record_answer
from tests.factories import MembershipFactory

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
SQL = Path(__file__).resolve().parents[2] / "billing" / "sql" / "usage.sql"


@pytest.fixture
def parent(shop: Shop) -> ModelVersion:
    return add_version("ancestor")


def add_version(slug: str, account: Account | None = None) -> ModelVersion:
    account = account or Account.objects.create(slug=slug, name=slug)
    model = AIModel.objects.create(account=account, name=f"base-{slug}", title=slug)
    return ModelVersion.objects.create(model=model, number=1, state=ModelVersion.State.APPROVED)


def promise(shop: Shop, parent: ModelVersion, bps: int = 2_500) -> Royalty:
    return promise_royalty(Actor(), shop.version, parent=parent, bps=bps)


def book(shop: Shop, count: int = 1, **changes: object) -> list:
    """Predictions on one slice, booked in one batch; their ids."""
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, count * PRICE_NANOS))
    ids = [new_id() for _ in range(count)]
    for prediction_id in ids:
        record_answer(shop, prediction_id)
    items = [shop.item(one, hold_id=str(slice_id), **changes) for one in ids]
    assert settle(*items) == ["settled"] * count
    return ids


def reserve_of(account: Account) -> int:
    row = LedgerAccount.objects.filter(kind="creator_reserve", holder=account).first()
    return row.posted_nanos if row else 0


def test_an_ancestor_gets_its_part_of_each_prediction(
    shop: Shop, fund: Fund, parent: ModelVersion
) -> None:
    fund(100 * PRICE_NANOS)
    royalty = promise(shop, parent)

    ids = book(shop, 3)

    # 800 of 1,001 are the creators'; a quarter of that is 200, the rest is the maker's.
    assert set(RoyaltyShare.objects.values_list("prediction_id", "royalty", "amount_nanos")) == {
        (one, royalty.pk, 200) for one in ids
    }
    assert reserve_of(parent.model.account) == 3 * 200
    assert reserve_of(shop.creator) == 3 * 600
    (transfer,) = Transfer.objects.filter(kind=Transfer.Kind.USAGE)
    assert sorted(transfer.entries.values_list("amount_nanos", flat=True)) == [
        -3_003,
        600,
        603,
        1_800,
    ]
    # What consumer and creator see of the prediction as a whole is as before.
    assert set(UsageEvent.objects.values_list("gross_nanos", "creator_nanos")) == {(1_001, 800)}
    assert broken() == set()
    (given,) = sum_royalties_given(shop.creator)
    (received,) = sum_royalties_received(parent.model.account)
    assert given == received
    assert (given.predictions, given.amount_nanos) == (3, 600)


def test_only_what_is_booked_while_it_is_in_force_is_shared(
    shop: Shop, fund: Fund, parent: ModelVersion
) -> None:
    fund(100 * PRICE_NANOS)
    book(shop)
    royalty = promise(shop, parent)
    book(shop)
    Royalty.objects.filter(pk=royalty.pk).update(ended_at="2030-01-01T00:00:00Z")
    book(shop)

    assert RoyaltyShare.objects.count() == 1
    assert reserve_of(parent.model.account) == 200
    assert broken() == set()


def test_a_repeat_shares_nothing_again(shop: Shop, fund: Fund, parent: ModelVersion) -> None:
    fund(100 * PRICE_NANOS)
    promise(shop, parent)
    item = shop.item(hold(shop))
    record_answer(shop, item["prediction_id"])
    settle(item)

    assert settle(item, item) == ["repeated", "repeated"]

    assert RoyaltyShare.objects.count() == 1
    assert reserve_of(parent.model.account) == 200


def test_test_keys_and_tiny_parts_share_nothing(
    shop: Shop, fund: Fund, parent: ModelVersion
) -> None:
    fund(100 * PRICE_NANOS)
    promise(shop, parent, bps=1)  # A ten-thousandth of 800 is nothing.
    book(shop)
    book(shop, mode="test", gross_nanos=0)

    assert RoyaltyShare.objects.count() == 0
    assert reserve_of(shop.creator) == 800
    assert broken() == set()


def test_parts_of_many_never_exceed_the_whole(shop: Shop, fund: Fund) -> None:
    """Random shares, odd prices: all parts together are what the creators get, to the nano."""
    choice = random.Random(20_261_122)
    fund(10_000 * PRICE_NANOS)
    left = 10_000
    for number in range(ROYALTIES_MAX):
        bps = choice.randint(1, left - (ROYALTIES_MAX - number)) if number < 7 else left
        left -= bps
        promise(shop, add_version(f"ancestor-{number}"), bps=bps)
    assert left == 0

    for _ in range(10):
        book(shop, choice.randint(1, 9), units=1)

    events = UsageEvent.objects.count()
    shared = sum(RoyaltyShare.objects.values_list("amount_nanos", flat=True))
    assert 0 < shared <= events * 800
    # What rounding leaves of all ten thousand is the maker's.
    assert reserve_of(shop.creator) == events * 800 - shared
    assert broken() == set()


def test_two_consumers_and_two_versions_in_one_batch(
    shop: Shop, fund: Fund, parent: ModelVersion
) -> None:
    fund(100 * PRICE_NANOS)
    sibling = ModelVersion.objects.create(
        model=shop.model, number=2, state=ModelVersion.State.APPROVED
    )
    promise(shop, parent, bps=5_000)
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 2 * PRICE_NANOS))
    items = [
        shop.item(new_id(), hold_id=str(slice_id)),
        shop.item(new_id(), hold_id=str(slice_id), version_id=str(sibling.pk)),
    ]
    for item in items:
        record_answer(shop, item["prediction_id"])

    assert settle(*items) == ["settled", "settled"]

    # One transfer moves both, and only the version that promised shares.
    assert Transfer.objects.filter(kind="usage").count() == 1
    assert (reserve_of(parent.model.account), reserve_of(shop.creator)) == (400, 1_200)
    assert broken() == set()


def test_limits_of_what_can_be_promised(shop: Shop, parent: ModelVersion) -> None:
    for bps in (0, -1, 10_001):
        with pytest.raises(InvalidInputError):
            promise(shop, parent, bps=bps)
    own = add_version("own", shop.creator)
    with pytest.raises(InvalidInputError):
        promise(shop, own)
    promise(shop, parent, bps=9_999)
    with pytest.raises(ConflictError):
        promise(shop, parent, bps=1)
    with pytest.raises(InvalidInputError):
        promise(shop, add_version("late"), bps=2)
    promise(shop, add_version("last"), bps=1)
    assert Royalty.objects.count() == 2


def test_as_many_as_there_may_be_and_one_more(shop: Shop) -> None:
    for number in range(ROYALTIES_MAX):
        promise(shop, add_version(f"ancestor-{number}"), bps=10)
    with pytest.raises(ConflictError):
        promise(shop, add_version("one-more"), bps=10)


@pytest.mark.django_db(transaction=True)
def test_two_who_promise_at_once_do_not_promise_more_than_all(shop: Shop) -> None:
    parents = [add_version(f"ancestor-{number}") for number in range(4)]
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def promise_one(parent: ModelVersion) -> None:
        barrier.wait()
        try:
            promise(shop, parent, bps=4_000)
            outcomes.append("promised")
        except InvalidInputError:
            outcomes.append("refused")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=promise_one, args=[one]) for one in parents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["promised"] * 2 + ["refused"] * 2


def test_the_database_refuses_more_than_all_and_changed_terms(
    shop: Shop, parent: ModelVersion
) -> None:
    royalty = promise(shop, parent, bps=6_000)
    copy = {
        "version": shop.version,
        "beneficiary": royalty.beneficiary,
        "reserve": royalty.reserve,
    }
    with pytest.raises(DatabaseError, match="more than all"), transaction.atomic():
        Royalty.objects.create(parent=add_version("other"), bps=4_001, **copy)
    for change in ({"bps": 1}, {"beneficiary": shop.creator}):
        with pytest.raises(DatabaseError, match="only be ended"), transaction.atomic():
            Royalty.objects.filter(pk=royalty.pk).update(**change)
    with pytest.raises(DatabaseError, match="only be ended"), transaction.atomic():
        Royalty.objects.filter(pk=royalty.pk).delete()


@pytest.fixture
def maker(shop: Shop, owner: User) -> Actor:
    MembershipFactory(account=shop.creator, user=owner, role="owner")
    return Actor(user=owner)


@pytest.fixture
def heir(parent: ModelVersion, teammate: User) -> Actor:
    MembershipFactory(account=parent.model.account, user=teammate, role="owner")
    return Actor(user=teammate)


def test_who_promised_can_take_it_back_until_it_is_sold(
    shop: Shop, parent: ModelVersion, maker: Actor, heir: Actor
) -> None:
    ModelVersion.objects.filter(pk=shop.version.pk).update(state="in_review")
    royalty = end_royalty(maker, promise(shop, parent))
    assert royalty.ended_at is not None

    ModelVersion.objects.filter(pk=shop.version.pk).update(state="approved")
    royalty = promise(shop, parent)
    with pytest.raises(ForbiddenError):
        end_royalty(maker, royalty)
    ended = end_royalty(heir, royalty)
    assert ended.ended_at is not None
    assert end_royalty(heir, royalty).ended_at == ended.ended_at
    # Both sides read of it in their own log.
    for account in (shop.creator, parent.model.account):
        actions = AuditEvent.objects.filter(account_id=account.pk).values_list("action", flat=True)
        assert {"royalty.promise", "royalty.end"} <= set(actions)


def client_of(actor: Actor) -> Client:
    client = Client()
    assert actor.user is not None
    client.force_login(actor.user)
    return client


def test_the_page_promises_and_ends(
    shop: Shop, parent: ModelVersion, maker: Actor, heir: Actor, fund: Fund
) -> None:
    parent.model.__class__.objects.filter(pk=parent.model_id).update(visibility="public")
    path = "/dashboard/models/creator/echo/versions/1/royalties"
    client = client_of(maker)
    assert "Nothing is shared" in client.get(path).content.decode()

    for body in (
        {"parent": "ancestor/nothing:1", "percent": "10"},
        {"parent": "base", "percent": "10"},
        {"parent": str(parent), "percent": "0"},
        {"parent": str(parent), "percent": "100.01"},
        {"parent": str(parent), "percent": "NaN"},
        {"parent": str(parent), "percent": "0.001"},
        {"parent": "creator/echo:1", "percent": "10"},
    ):
        answer = client.post(path, body)
        assert answer.status_code == 422, body
    assert Royalty.objects.count() == 0

    assert client.post(path, {"parent": str(parent), "percent": "12.5"}).status_code == 302
    royalty = Royalty.objects.get()
    assert royalty.bps == 1_250
    assert "12.5 %" in client.get(path).content.decode()

    fund(10 * PRICE_NANOS)
    book(shop)
    other = client_of(heir)
    earnings = other.get("/dashboard/earnings?account=ancestor").content.decode()
    assert "creator/echo:1" in earnings
    assert "$0.0000001" in earnings
    end = f"/dashboard/royalties/{royalty.pk}/end"
    assert "Nothing is taken back" in other.get(end).content.decode()
    assert "only who gets this royalty" in client.get(end).content.decode()
    assert client.post(end).status_code == 403
    assert other.post(end).status_code == 302
    royalty.refresh_from_db()
    assert royalty.ended_at is not None
    assert "in force" not in client.get(path).content.decode()


def test_the_api_does_the_same(shop: Shop, parent: ModelVersion, maker: Actor, heir: Actor) -> None:
    AIModel.objects.filter(pk=parent.model_id).update(visibility="public")
    path = "/api/models/creator/echo/versions/1/royalties"
    client = client_of(maker)
    for body in (
        {"parent": "ancestor/nothing:1", "bps": 10},
        {"parent": str(parent), "bps": 0},
        {"parent": str(parent), "bps": 10_001},
        {"parent": str(parent), "bps": 1.5},
        {"parent": str(parent)},
    ):
        assert client.post(path, body, content_type="application/json").status_code == 422, body

    made = client.post(path, {"parent": str(parent), "bps": 10_000}, "application/json")
    assert made.status_code == 201
    assert client.get(path).json() == {"results": [made.json()]}
    one = f"/api/royalties/{made.json()['id']}"
    assert client_of(heir).get(one).json() == made.json()
    assert client.delete(one).status_code == 403
    assert client_of(heir).delete(one).json()["ended_at"] is not None


MUTANTS = {
    "rounded up": (
        "b.creator_nanos * r.bps / 10000 AS",
        "(b.creator_nanos * r.bps + 9999) / 10000 AS",
    ),
    "of the gross": ("b.creator_nanos * r.bps / 10000 AS", "b.gross_nanos * r.bps / 10000 AS"),
    "not taken from the creator": (
        "AND y.payable_id = d.payable_id), 0)::bigint\n            FROM debt d",
        "AND y.payable_id = d.payable_id AND false), 0)::bigint\n            FROM debt d",
    ),
    "shares not written": (
        "FROM royalty y\n    ), posted",
        "FROM royalty y WHERE false\n    ), posted",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_function_is_noticed(
    shop: Shop, fund: Fund, parent: ModelVersion, mutant: str
) -> None:
    text = SQL.read_text()
    right, wrong = MUTANTS[mutant]
    assert text.count(right) == 1
    with connection.cursor() as cursor:
        cursor.execute(text.replace(right, wrong))
    fund(100 * PRICE_NANOS)
    promise(shop, parent, bps=3_333)

    try:
        with transaction.atomic():
            book(shop, 3)
            found = broken()
    except DatabaseError:
        return  # The database itself refused it.

    assert found & {"creators-get-their-parts", "royalties-equal-terms", "transfers-sum-to-zero"}
