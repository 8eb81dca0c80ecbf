"""Holds that many predictions share: how large they are, what is booked on them, what goes back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from django.db import DatabaseError, DataError, connection, connections, transaction

from billing.models import Hold, KeySpend, LedgerAccount, Price, Transfer, TransferEntry, UsageEvent
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion
from tests.billing.conftest import (
    PRICE_NANOS,
    SHARE_BPS,
    Shop,
    asked,
    balances,
    give_back,
    hold,
    query,
    reserve,
    settle,
)
from tests.billing.test_ledger import broken, check_invariants_now, record_answer
from tests.factories import APIKeyFactory

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]


def add_creator(shop: Shop, slug: str) -> Shop:
    """Another creator, of whom the same consumer buys."""
    creator = Account.objects.create(slug=slug, name=slug)
    model = AIModel.objects.create(account=creator, name="echo", title="Echo")
    version = ModelVersion.objects.create(model=model, number=1)
    price = Price.objects.create(
        model=model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=SHARE_BPS,
        valid_from="2026-01-01T00:00:00Z",
    )
    return Shop(creator, shop.consumer, model, version, price, shop.wallet_id)


@pytest.mark.parametrize(
    ("funded", "most", "expected"),
    [
        # A sixteenth of what is free, if that is more than the least and less than the most.
        (16 * 100 * PRICE_NANOS, 1_000 * PRICE_NANOS, 100 * PRICE_NANOS),
        (16 * 100 * PRICE_NANOS, 7 * PRICE_NANOS, 7 * PRICE_NANOS),
        (17 * PRICE_NANOS, 100 * PRICE_NANOS, 17 * PRICE_NANOS // 16),
        # Near the floor: the price of one prediction and no nano more.
        (16 * PRICE_NANOS, 100 * PRICE_NANOS, PRICE_NANOS),
        (PRICE_NANOS, 100 * PRICE_NANOS, PRICE_NANOS),
    ],
)
def test_a_slice_is_a_sixteenth_of_what_is_free(
    shop: Shop, fund: Fund, funded: int, most: int, expected: int
) -> None:
    fund(funded)

    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS, most))

    assert (nanos, outcome) == (expected, "held")
    assert balances()["wallet"] == (funded, expected)


def test_who_is_refused_is_told_whether_others_hold_it(shop: Shop, fund: Fund) -> None:
    fund(100)
    hold(shop, 60)

    def ask(nanos: int) -> list[tuple]:
        return query(
            "SELECT outcome, may_return FROM billing_reserve(jsonb_build_array("
            "jsonb_build_object('hold_id', gen_random_uuid(), 'account_id', %s::uuid,"
            " 'least_nanos', %s, 'most_nanos', %s)), 60)",
            shop.consumer.pk,
            nanos,
            nanos,
        )

    assert ask(101) == [("insufficient_credit", False)]
    assert ask(100) == [("insufficient_credit", True)]
    assert ask(41) == [("insufficient_credit", True)]
    assert ask(40) == [("held", False)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("nanos", "is_heard"), [(100, True), (101, False)])
def test_others_are_asked_only_where_they_hold_enough(
    shop: Shop, fund: Fund, database_urls: dict[str, str], nanos: int, is_heard: bool
) -> None:
    fund(100)
    hold(shop, 60)
    with psycopg.connect(database_urls["gateway"], autocommit=True) as listener:
        listener.execute("LISTEN strongroom_changes")
        reserve(asked(shop.consumer.pk, nanos))
        query("SELECT pg_notify('strongroom_changes', 'end')")
        payloads = []
        for notice in listener.notifies(timeout=10):
            if notice.payload == "end":
                break
            payloads.append(notice.payload)

    heard = [one for one in payloads if "billing_hold" in one and str(shop.consumer.pk) in one]
    assert bool(heard) == is_heard


def test_one_transfer_moves_what_a_batch_owes_a_creator(shop: Shop, fund: Fund) -> None:
    fund(1_000 * PRICE_NANOS)
    other = add_creator(shop, "second")
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 10 * PRICE_NANOS))
    batch = [shop.item(new_id(), hold_id=str(slice_id), units=units) for units in (1, 2, 1)]
    batch += [other.item(new_id(), hold_id=str(slice_id)) for _ in range(2)]
    batch.append(shop.item(new_id(), mode="test", gross_nanos=0, hold_id=None))
    for item in batch:
        record_answer(shop, item["prediction_id"])

    assert settle(*batch) == ["settled"] * 6

    transfers = Transfer.objects.filter(kind=Transfer.Kind.USAGE)
    found = sorted(
        (
            one.usage_events.count(),
            *sorted(one.entries.values_list("ledger_account__kind", "amount_nanos")),
        )
        for one in transfers
    )
    # Each part is rounded on its own: 800 + 1601 + 800, and not 80 % of the sum.
    assert found == [
        (2, ("creator_reserve", 1_600), ("platform_revenue", 402), ("wallet", -2_002)),
        (3, ("creator_reserve", 3_201), ("platform_revenue", 803), ("wallet", -4_004)),
    ]
    assert balances()["wallet"] == (994 * PRICE_NANOS, 4 * PRICE_NANOS)
    assert UsageEvent.objects.get(mode="test").transfer_id is None
    give_back(slice_id)
    assert broken() == set()


def test_a_batch_of_two_tags_is_one_transfer_and_events_with_their_own(
    shop: Shop, fund: Fund
) -> None:
    fund(1_000 * PRICE_NANOS)
    key = budget_key(shop, day=10 * PRICE_NANOS)
    common = {"api_key_id": str(key.pk)}
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 4 * PRICE_NANOS, api_key_id=key.pk))
    tags = {new_id(): tag for tag in ("nightly", "x" * 64, "", None)}
    batch = [shop.item(one, hold_id=str(slice_id), tag=tag, **common) for one, tag in tags.items()]
    for one in tags:
        record_answer(shop, one)

    assert settle(*batch) == ["settled"] * 4

    transfer = Transfer.objects.get(kind=Transfer.Kind.USAGE)
    events = UsageEvent.objects.filter(transfer=transfer).values_list("prediction_id", "tag")
    # A gateway that does not know of tags yet sends none.
    assert dict(events) == {one: tag or "" for one, tag in tags.items()}
    # The budget is the key's, whatever the tags are.
    assert spends(key)["day"] == (4 * PRICE_NANOS, 0)
    # Sent again with other tags, as by a retry: the first ones stay.
    again = [item | {"tag": "other"} for item in batch]
    assert settle(*again) == ["repeated"] * 4
    assert not UsageEvent.objects.filter(tag="other").exists()
    assert balances()["wallet"] == (996 * PRICE_NANOS, 0)
    assert broken() == set()


def test_a_tag_past_its_length_books_nothing(shop: Shop, fund: Fund) -> None:
    """The gateway lets none in; the table would not take it either."""
    fund(PRICE_NANOS)
    one = hold(shop)
    with pytest.raises(DataError), transaction.atomic():
        settle(shop.item(one, tag="x" * 65))

    assert not UsageEvent.objects.exists()
    assert settle(shop.item(one, tag="x" * 64)) == ["settled"]


def test_a_slice_pays_to_its_last_nano_and_not_one_past_it(shop: Shop, fund: Fund) -> None:
    fund(1_000 * PRICE_NANOS)
    slice_id = hold(shop, 3 * PRICE_NANOS - 1)
    ids = sorted(new_id() for _ in range(3))

    outcomes = settle(*(shop.item(one, hold_id=str(slice_id)) for one in ids))

    assert outcomes == ["settled", "settled", "hold_missing"]
    assert balances()["wallet"] == (998 * PRICE_NANOS, PRICE_NANOS - 1)


def test_a_part_that_is_given_back_pays_for_nothing_any_more(shop: Shop, fund: Fund) -> None:
    fund(10 * PRICE_NANOS)
    slice_id = hold(shop, 3 * PRICE_NANOS)

    assert give_back(slice_id, nanos=2 * PRICE_NANOS) == 1
    assert balances()["wallet"] == (10 * PRICE_NANOS, PRICE_NANOS)
    # More than is left of it: nothing is changed.
    assert give_back(slice_id, nanos=PRICE_NANOS + 1) == 0

    ids = sorted(new_id() for _ in range(2))
    outcomes = settle(*(shop.item(one, hold_id=str(slice_id)) for one in ids))
    assert outcomes == ["settled", "hold_missing"]
    assert balances()["wallet"] == (9 * PRICE_NANOS, 0)
    assert Hold.objects.get().state == Hold.State.POSTED


# --- Budgets ---


def budget_key(shop: Shop, **budgets: int):
    names = {f"budget_{period}_nanos": nanos for period, nanos in budgets.items()}
    return APIKeyFactory(account=shop.consumer, **names)


def spends(key, day: str = "") -> dict[str, tuple[int, int]]:
    rows = KeySpend.objects.filter(api_key_id=key.pk)
    if day:
        rows = rows.filter(period="day", starts_on=day)
    return {row.period: (row.spent_nanos, row.held_nanos) for row in rows}


@pytest.mark.parametrize("period", ["day", "month", "total"])
def test_a_budget_is_spent_to_its_last_nano(shop: Shop, fund: Fund, period: str) -> None:
    fund(1_000 * PRICE_NANOS)
    key = budget_key(shop, **{period: 3 * PRICE_NANOS})
    one = asked(shop.consumer.pk, PRICE_NANOS, api_key_id=key.pk)
    two = asked(shop.consumer.pk, 2 * PRICE_NANOS, api_key_id=key.pk)

    ((first, _, _),) = reserve(one)
    assert settle(shop.item(first, api_key_id=str(key.pk))) == ["settled"]
    ((second, _, outcome),) = reserve(two)
    assert outcome == "held"
    assert spends(key)[period] == (PRICE_NANOS, 2 * PRICE_NANOS)

    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, 1, api_key_id=key.pk))
    assert (nanos, outcome) == (0, "budget_exceeded")
    # What is given back, and what expires, may be spent.
    give_back(second, nanos=PRICE_NANOS)
    Hold.objects.filter(pk=second).update(expires_at="2020-01-01T00:00:00Z")
    assert ledger.expire_holds() == 1
    assert spends(key)[period] == (PRICE_NANOS, 0)
    ((_, _, outcome),) = reserve(asked(shop.consumer.pk, 2 * PRICE_NANOS + 1, api_key_id=key.pk))
    assert outcome == "budget_exceeded"
    ((_, _, outcome),) = reserve(asked(shop.consumer.pk, 2 * PRICE_NANOS, api_key_id=key.pk))
    assert outcome == "held"


def test_the_tightest_budget_counts_and_its_slices_are_small(shop: Shop, fund: Fund) -> None:
    fund(10**9)
    key = budget_key(shop, day=160_000, month=150_000, total=10**9)

    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, 1, 10**8, api_key_id=key.pk))
    assert (nanos, outcome) == (150_000 // 16, "held")


def test_a_day_and_a_month_begin_anew_and_a_life_does_not(shop: Shop, fund: Fund) -> None:
    fund(10**9)
    key = budget_key(shop, day=100, month=250, total=1_000)

    def left(day: str) -> int:
        ((nanos,),) = query("SELECT left_nanos FROM billing_budget_left(%s, %s)", key.pk, day)
        return nanos

    def spend(day: str, nanos: int) -> None:
        query("SELECT billing_note_spend(%s, %s::date[], %s, '{0}')", [key.pk], [day], [nanos])

    spend("2026-01-30", 100)
    assert (left("2026-01-30"), left("2026-01-31")) == (0, 100)
    spend("2026-01-31", 100)
    # 50 are left of the month; the next month has its own, from its first day on.
    spend("2026-01-29", 10)
    assert (left("2026-01-28"), left("2026-02-01"), left("2025-12-31")) == (40, 100, 100)
    spend("2026-02-28", 60)
    spend("2026-03-01", 700)
    # 30 are left of its life.
    assert (left("2026-02-28"), left("2026-04-01")) == (30, 30)


def test_a_hold_counts_for_the_day_on_which_it_was_made(shop: Shop, fund: Fund) -> None:
    fund(10**9)
    key = budget_key(shop, day=10**6)
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 3 * PRICE_NANOS, api_key_id=key.pk))
    # It was made in the last moment of a month, and is booked and given back in the next.
    Hold.objects.update(created_at="2026-01-31T23:59:59.9Z")
    KeySpend.objects.filter(period="day").update(starts_on="2026-01-31")
    KeySpend.objects.filter(period="month").update(starts_on="2026-01-01")

    settle(shop.item(new_id(), hold_id=str(slice_id), api_key_id=str(key.pk)))
    give_back(slice_id)

    assert spends(key) == {
        "day": (PRICE_NANOS, 0),
        "month": (PRICE_NANOS, 0),
        "total": (PRICE_NANOS, 0),
    }
    assert "spend-equals-usage" not in broken()


def test_a_hold_of_a_key_pays_for_that_key_only(shop: Shop, fund: Fund) -> None:
    fund(10**9)
    key = budget_key(shop, day=10**6)
    ((slice_id, _, _),) = reserve(asked(shop.consumer.pk, 3 * PRICE_NANOS, api_key_id=key.pk))

    for other in (None, str(new_id())):
        item = shop.item(new_id(), hold_id=str(slice_id), api_key_id=other)
        assert settle(item) == ["hold_missing"]

    assert not UsageEvent.objects.exists()


def test_a_key_without_a_budget_is_counted_for_the_day_that_it_gets_one(
    shop: Shop, fund: Fund
) -> None:
    fund(10**9)
    key = budget_key(shop)
    slice_id = hold(shop, 3 * PRICE_NANOS)
    settle(shop.item(new_id(), hold_id=str(slice_id), api_key_id=str(key.pk)))
    type(key).objects.filter(pk=key.pk).update(budget_total_nanos=2 * PRICE_NANOS)

    ((_, _, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS + 1, api_key_id=key.pk))
    assert outcome == "budget_exceeded"
    ((_, _, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS, api_key_id=key.pk))
    assert outcome == "held"


# --- Guards ---


@pytest.mark.parametrize("whose", ["consumer", "creator"])
def test_an_account_with_usage_cannot_be_deleted(shop: Shop, fund: Fund, whose: str) -> None:
    """At once, and not only when the transaction ends, as other references do."""
    item = shop.item(new_id(), mode="test", gross_nanos=0, hold_id=None)
    settle(item)
    account = getattr(shop, whose)

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query("DELETE FROM marketplace_account WHERE id = %s RETURNING 1", account.pk)

    assert caught.value.__cause__.sqlstate == "23503"
    assert "with usage" in str(caught.value)


def test_a_version_with_usage_cannot_be_deleted(shop: Shop, fund: Fund) -> None:
    unused = ModelVersion.objects.create(model=shop.model, number=2)
    item = shop.item(new_id(), mode="test", gross_nanos=0, hold_id=None)
    settle(item)
    delete = "DELETE FROM marketplace_modelversion WHERE id = %s RETURNING 1"

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query(delete, shop.version.pk)

    assert caught.value.__cause__.sqlstate == "23503"
    assert query(delete, unused.pk) == [(1,)]


def test_a_version_that_was_run_cannot_be_deleted(shop: Shop) -> None:
    """A prediction that failed has no usage event."""
    record_answer(shop, new_id())

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        query("DELETE FROM marketplace_modelversion WHERE id = %s RETURNING 1", shop.version.pk)

    assert caught.value.__cause__.sqlstate == "23503"


def write_usage(shop: Shop, *, gross: int, creator: int, moved: int, earned: int) -> None:
    """As a wrong function would: balanced, and not what the event costs."""
    payable = ledger.get_ledger_account_id(
        LedgerAccount.Kind.CREATOR_RESERVE, holder_id=shop.creator.pk
    )
    platform = ledger.get_ledger_account_id(LedgerAccount.Kind.PLATFORM_REVENUE)
    transfer_id = new_id()
    ledger.post_transfer(
        transfer_id=transfer_id,
        kind=Transfer.Kind.USAGE,
        idempotency_key=f"usage:{transfer_id}",
        amounts_nanos={shop.wallet_id: -moved, payable: earned, platform: moved - earned},
    )
    UsageEvent.objects.create(
        prediction_id=new_id(),
        account=shop.consumer,
        version=shop.version,
        creator=shop.creator,
        price=shop.price,
        units=1,
        gross_nanos=gross,
        creator_nanos=creator,
        transfer_id=transfer_id,
        occurred_at="2026-01-01T00:00:00Z",
    )


def test_the_database_refuses_usage_that_its_transfer_does_not_pay(shop: Shop, fund: Fund) -> None:
    fund(10_000)
    wrong = [
        {"gross": 1_001, "creator": 800, "moved": 1_000, "earned": 800},
        {"gross": 1_001, "creator": 800, "moved": 1_002, "earned": 800},
        {"gross": 1_001, "creator": 800, "moved": 1_001, "earned": 799},
        {"gross": 1_001, "creator": 801, "moved": 1_001, "earned": 800},
    ]
    for amounts in wrong:
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            write_usage(shop, **amounts)
        assert caught.value.__cause__.sqlstate == "SR422"

    write_usage(shop, gross=1_001, creator=800, moved=1_001, earned=800)


def test_an_event_that_joins_a_transfer_of_others_is_found(shop: Shop, fund: Fund) -> None:
    """The trigger weighs what comes; that it is all of a transfer's, the hourly check tells."""
    fund(10_000)
    settle(shop.item(hold(shop)))
    assert "usage-equals-transfers" not in broken()
    booked = UsageEvent.objects.get()

    booked.pk = new_id()
    booked.save(force_insert=True)

    assert "usage-equals-transfers" in broken()


@pytest.mark.parametrize(
    "changes",
    [
        {"creator_nanos": 1_002},
        {"creator_nanos": -1},
        {"transfer_id": None},
        {"gross_nanos": 0, "creator_nanos": 0},
    ],
)
def test_the_database_refuses_an_event_that_cannot_be(
    shop: Shop, fund: Fund, changes: dict
) -> None:
    fund(10_000)
    settle(shop.item(hold(shop)))
    event = UsageEvent.objects.get()
    event.pk = new_id()
    for name, value in changes.items():
        setattr(event, name, value)

    with pytest.raises(DatabaseError), transaction.atomic():
        event.save(force_insert=True)


# --- Many at once ---


class Gateway(threading.Thread):
    """Reserves, books and gives back at random, and notes whatever Postgres refuses."""

    def __init__(self, seed: int, shops: list[Shop], keys: list, until_s: float) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.shops, self.keys, self.until_s = shops, keys, until_s
        self.slices: list[tuple] = []
        self.errors: list[str] = []
        self.steps = 0

    def run(self) -> None:
        try:
            while time.monotonic() < self.until_s:
                step = self.random.choice([self.reserve, self.settle, self.settle, self.give_back])
                step()
                self.steps += 1
            give_back(*(hold_id for hold_id, _, _ in self.slices))
        except DatabaseError as error:
            self.errors.append(f"{error.__cause__.sqlstate}: {error}")
        finally:
            connections.close_all()

    def reserve(self) -> None:
        items = []
        for _ in range(self.random.randint(1, 4)):
            key = self.random.choice([None, *self.keys])
            shop = self.random.choice(self.shops) if key is None else key.shop
            nanos = self.random.randint(1, 5) * PRICE_NANOS
            key_id = None if key is None else key.pk
            items.append(asked(shop.consumer.pk, nanos, 4 * nanos, api_key_id=key_id))
        for item, (hold_id, _, outcome) in zip(items, reserve(*items), strict=True):
            if outcome == "held":
                self.slices.append((hold_id, item["account_id"], item["api_key_id"]))

    def settle(self) -> None:
        count = min(len(self.slices), self.random.randint(1, 6))
        batch = []
        for hold_id, account_id, key_id in self.random.sample(self.slices, count):
            shop = self.random.choice(self.shops)
            common = {"hold_id": str(hold_id), "account_id": account_id, "api_key_id": key_id}
            batch += [shop.item(new_id(), **common) for _ in range(self.random.randint(1, 3))]
        if batch:
            with transaction.atomic():
                outcomes = settle(*batch)
                for item, outcome in zip(batch, outcomes, strict=True):
                    if outcome == "settled":
                        record_answer(self.shops[0], item["prediction_id"])

    def give_back(self) -> None:
        self.random.shuffle(self.slices)
        for _ in range(min(len(self.slices), self.random.randint(1, 3))):
            hold_id, _, _ = self.slices.pop()
            give_back(hold_id, nanos=self.random.choice([None, 1]))


def stress(shop: Shop, fund: Fund, *, run_s: float) -> list[Gateway]:
    """Gateways on two wallets that buy of three creators, two of them for the first time."""
    rich = Account.objects.create(slug="rich", name="Rich")
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=rich.pk)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key="test:rich",
        amounts_nanos={
            ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING): -(10**9),
            wallet_id: 10**9,
        },
    )
    fund(400 * PRICE_NANOS)
    second = add_creator(shop, "second")
    third = add_creator(shop, "third")
    second.consumer, second.wallet_id = rich, wallet_id
    keys = []
    for owner, nanos in ((shop, 100 * PRICE_NANOS), (second, 10**8)):
        key = budget_key(owner, day=nanos)
        key.shop = owner
        keys.append(key)
    until_s = time.monotonic() + run_s
    gateways = [Gateway(seed, [shop, second, third], keys, until_s) for seed in range(6)]
    for one in gateways:
        one.start()
    sweeps = 0
    while any(one.is_alive() for one in gateways):
        # The sweeper takes some from under them.
        Hold.objects.filter(pk__in=Hold.objects.filter(state="pending")[:2]).update(
            expires_at="2020-01-01T00:00:00Z"
        )
        try:
            sweeps += ledger.expire_holds()
        except DatabaseError as error:
            gateways[0].errors.append(f"{error.__cause__.sqlstate}: {error}")
        time.sleep(0.02)
    for one in gateways:
        one.join()
    assert sweeps
    return gateways


@pytest.mark.django_db(transaction=True)
def test_gateways_at_once_wait_for_nobody_in_a_circle(shop: Shop, fund: Fund) -> None:
    gateways = stress(shop, fund, run_s=8)

    assert [one.errors for one in gateways] == [[]] * len(gateways)
    assert all(one.steps > 10 for one in gateways)
    assert UsageEvent.objects.exclude(api_key_id=None).exists()
    give_back(*Hold.objects.filter(state="pending").values_list("pk", flat=True))
    assert not KeySpend.objects.exclude(held_nanos=0).exists()
    assert broken() == set()
    assert len(check_invariants_now()) > 10
    entries = TransferEntry.objects.filter(ledger_account__kind="wallet", amount_nanos__lt=0)
    assert entries.exists()


@pytest.mark.django_db(transaction=True)
def test_a_booking_that_locks_in_another_order_is_noticed(shop: Shop, fund: Fund) -> None:
    """The control of the test above."""
    ((source,),) = query("SELECT pg_get_functiondef('billing_settle'::regproc)")
    line = "PERFORM 1 FROM billing_hold h WHERE h.id = ANY (v_holds) ORDER BY h.id FOR UPDATE;"
    reverse = """PERFORM 1 FROM billing_ledgeraccount a WHERE a.kind = 'wallet'
        ORDER BY a.id DESC FOR NO KEY UPDATE;"""
    assert line in source
    try:
        with connection.cursor() as cursor:
            cursor.execute(source.replace(line, reverse + line))
        # Who waits for whom is chance: a busy machine needs longer until two do for each other.
        gateways = stress(shop, fund, run_s=15)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(source)

    assert any("40P01" in error for one in gateways for error in one.errors)
