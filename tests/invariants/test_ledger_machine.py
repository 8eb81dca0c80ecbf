"""Any order of top-ups, slices, settles, repeats, give-backs and expiries keeps the books right."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing.models import Hold, KeySpend, LedgerAccount, Price, Royalty, Transfer, UsageEvent
from billing.services import ledger
from billing.services.royalty import promise_royalty
from marketplace.core.ids import new_id
from marketplace.core.money import split_share
from marketplace.models import Account, AIModel, APIKey, ModelVersion
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop, asked, give_back, query, reserve, settle
from tests.billing.lock_order import whole_history
from tests.billing.test_ledger import broken, record_answer
from tests.factories import APIKeyFactory

PRICES_NANOS = (1_001, 777)
SHARES_BPS = (3_333, 10_000)
BUDGET_NANOS = 3_000
# A failure is not made smaller: it would take longer than to understand it.
PHASES = (Phase.explicit, Phase.generate)


@dataclass
class Slice:
    """What the machine knows of an open hold."""

    key: APIKey | None
    left_nanos: int
    posted_nanos: int = 0


class Books(RuleBasedStateMachine):
    """The database against a model of a few integers: one consumer, two creators, two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = whole_history()
        self.savepoint.__enter__()
        name = new_id().hex[:12]
        consumer = Account.objects.create(slug=f"consumer-{name}", name="Consumer")
        wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=consumer.pk)
        self.shops = [
            make_shop(f"creator-{number}-{name}", consumer, wallet_id, number) for number in (0, 1)
        ]
        self.wallet_id, self.consumer = wallet_id, consumer
        # One key has a budget, the other has none.
        self.budgeted = APIKeyFactory(account=consumer, budget_day_nanos=BUDGET_NANOS)
        self.free = APIKeyFactory(account=consumer)
        self.wallet_nanos = 0
        self.earned_nanos = [0, 0]
        self.platform_nanos = 0
        self.spent_nanos = {self.budgeted.pk: 0, self.free.pk: 0}
        self.open: dict[UUID, Slice] = {}
        self.done: list[tuple[Shop, dict]] = []
        # What the first creator's version gives to the second creator, while it does.
        self.royalty: Royalty | None = None

    @initialize(keyed=st.booleans())
    def begin_with_a_slice(self, keyed: bool) -> None:
        """Something can be sold at once: by chance alone few examples ever came to a sale."""
        self.put_in(20_000)
        self.take_out(6_000, 0, keyed)

    @rule(amount_nanos=st.integers(1, 20_000))
    def top_up(self, amount_nanos: int) -> None:
        self.put_in(amount_nanos)

    def put_in(self, amount_nanos: int) -> None:
        clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.TOP_UP,
            idempotency_key=f"machine:{new_id()}",
            amounts_nanos={clearing_id: -amount_nanos, self.wallet_id: amount_nanos},
        )
        self.wallet_nanos += amount_nanos

    @rule(least_nanos=st.integers(1, 6_000), extra_nanos=st.integers(0, 9_000), keyed=st.booleans())
    def reserve(self, least_nanos: int, extra_nanos: int, keyed: bool) -> None:
        self.take_out(least_nanos, extra_nanos, keyed)

    def take_out(self, least_nanos: int, extra_nanos: int, keyed: bool) -> None:
        key = self.budgeted if keyed else None
        most_nanos = least_nanos + extra_nanos
        item = asked(
            self.consumer.pk, least_nanos, most_nanos, api_key_id=None if key is None else key.pk
        )

        ((hold_id, amount_nanos, outcome),) = reserve(item)

        free_nanos = self.wallet_nanos - self.count_held()
        budget_nanos = BUDGET_NANOS - self.spent_nanos[self.budgeted.pk] - self.count_held(key)
        if free_nanos < least_nanos:
            assert (outcome, amount_nanos) == ("insufficient_credit", 0)
        elif key is not None and budget_nanos < least_nanos:
            assert (outcome, amount_nanos) == ("budget_exceeded", 0)
        else:
            room_nanos = min(free_nanos, budget_nanos) if key is not None else free_nanos
            assert outcome == "held"
            assert amount_nanos == max(least_nanos, min(most_nanos, room_nanos // 16))
            self.open[hold_id] = Slice(key, amount_nanos)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Some predictions of both creators in one batch, several from one slice."""
        chosen = data.draw(
            st.lists(
                st.tuples(st.sampled_from(list(self.open)), st.integers(0, 1), st.integers(1, 4)),
                min_size=1,
                max_size=6,
            )
        )
        items, expected = [], {}
        # In the order of their ids, as the function takes them.
        ids = sorted(new_id() for _ in chosen)
        for prediction_id, (hold_id, number, units) in zip(ids, chosen, strict=True):
            shop, gross_nanos = self.shops[number], units * PRICES_NANOS[number]
            key = self.open[hold_id].key or self.free
            item = shop.item(
                prediction_id,
                units=units,
                hold_id=str(hold_id),
                api_key_id=str(key.pk),
                gross_nanos=gross_nanos,
            )
            items.append((shop, item))
        # What no longer fits, and all that comes after it on the same slice, is not booked.
        used: dict[UUID, int] = {}
        for _, item in items:
            hold_id, gross_nanos = UUID(item["hold_id"]), item["gross_nanos"]
            used[hold_id] = used.get(hold_id, 0) + gross_nanos
            is_paid = used[hold_id] <= self.open[hold_id].left_nanos
            expected[item["prediction_id"]] = "settled" if is_paid else "hold_missing"

        outcomes = settle(*(item for _, item in items))

        assert outcomes == [expected[item["prediction_id"]] for _, item in items]
        for (shop, item), outcome in zip(items, outcomes, strict=True):
            if outcome == "settled":
                self.book(shop, item)
        for hold_id in {UUID(item["hold_id"]) for _, item in items}:
            if self.open[hold_id].left_nanos == 0:
                del self.open[hold_id]

    def book(self, shop: Shop, item: dict) -> None:
        number, gross_nanos = self.shops.index(shop), item["gross_nanos"]
        record_answer(shop, item["prediction_id"])
        share_nanos, rest_nanos = split_share(gross_nanos, SHARES_BPS[number])
        found = self.open[UUID(item["hold_id"])]
        found.left_nanos -= gross_nanos
        found.posted_nanos += gross_nanos
        self.wallet_nanos -= gross_nanos
        if number == 0 and self.royalty is not None:
            given_nanos = share_nanos * self.royalty.bps // 10_000
            self.earned_nanos[1] += given_nanos
            share_nanos -= given_nanos
        self.earned_nanos[number] += share_nanos
        self.platform_nanos += rest_nanos
        self.spent_nanos[UUID(item["api_key_id"])] += gross_nanos
        self.done.append((shop, item))

    @precondition(lambda self: self.royalty is None)
    @rule(bps=st.integers(1, 10_000))
    def promise_a_royalty(self, bps: int) -> None:
        self.promise(bps)

    def promise(self, bps: int) -> None:
        first, second = self.shops
        self.royalty = promise_royalty(Actor(), first.version, parent=second.version, bps=bps)

    @precondition(lambda self: self.royalty is not None)
    @rule()
    def end_the_royalty(self) -> None:
        Royalty.objects.filter(pk=self.royalty.pk).update(ended_at=timezone.now())
        self.royalty = None

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        _, item = data.draw(st.sampled_from(self.done))
        assert settle(item) == ["repeated"]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_a_part_back(self, data: st.DataObject) -> None:
        hold_id = data.draw(st.sampled_from(list(self.open)))
        left_nanos = self.open[hold_id].left_nanos
        nanos = data.draw(st.integers(0, left_nanos + 1))
        # More than is left is refused as a whole.
        assert give_back(hold_id, nanos=nanos) == (nanos <= left_nanos)
        if nanos <= left_nanos:
            self.open[hold_id].left_nanos -= nanos
        if self.open[hold_id].left_nanos == 0:
            del self.open[hold_id]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), expire=st.booleans())
    def give_up(self, data: st.DataObject, expire: bool) -> None:
        hold_id = data.draw(st.sampled_from(list(self.open)))
        found = self.open.pop(hold_id)
        if expire:
            Hold.objects.filter(pk=hold_id).update(expires_at="2020-01-01T00:00:00Z")
            assert ledger.expire_holds() == 1
        else:
            assert give_back(hold_id) == 1
        key_id = str((found.key or self.free).pk)
        item = self.shops[0].item(
            new_id(), hold_id=str(hold_id), api_key_id=key_id, gross_nanos=PRICES_NANOS[0]
        )
        assert settle(item) == ["hold_missing"]

    @invariant()
    def books_are_right(self) -> None:
        found = {
            (row.kind, row.holder_id): (row.posted_nanos, row.held_nanos)
            for row in LedgerAccount.objects.all()
        }
        expected = {
            ("wallet", self.consumer.pk): (self.wallet_nanos, self.count_held()),
            ("platform_revenue", None): (self.platform_nanos, 0),
        }
        for shop, nanos in zip(self.shops, self.earned_nanos, strict=True):
            expected["creator_reserve", shop.creator.pk] = (nanos, 0)
        for account, amounts in expected.items():
            assert found.get(account, (0, 0)) == amounts
        self.keys_are_right()
        assert UsageEvent.objects.filter(account=self.consumer).count() == len(self.done)
        assert broken() == set()

    def keys_are_right(self) -> None:
        for key in (self.budgeted, self.free):
            held_nanos = self.count_held(key)
            for row in KeySpend.objects.filter(api_key_id=key.pk):
                assert (row.spent_nanos, row.held_nanos) == (self.spent_nanos[key.pk], held_nanos)

    def count_held(self, key: APIKey | None = None) -> int:
        """What is reserved, in all or for a key."""
        return sum(one.left_nanos for one in self.open.values() if key is None or one.key == key)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)


def make_shop(slug: str, consumer: Account, wallet_id: UUID, number: int) -> Shop:
    creator = Account.objects.create(slug=slug, name="Creator")
    model = AIModel.objects.create(account=creator, name="echo", title="Echo")
    version = ModelVersion.objects.create(model=model, number=1)
    price = Price.objects.create(
        model=model,
        nanos_per_prediction=PRICES_NANOS[number],
        creator_share_bps=SHARES_BPS[number],
        valid_from="2026-01-01T00:00:00Z",
    )
    return Shop(creator, consumer, model, version, price, wallet_id)


class BooksWithRoyalty(Books):
    """A royalty from the beginning: by chance one is rarely promised before something is sold."""

    @initialize(bps=st.integers(1_000, 10_000))
    def promise_first(self, bps: int) -> None:
        self.promise(bps)


def run(examples_max: int, machine: type[Books] = Books) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=examples_max, stateful_step_count=25, deadline=None, phases=PHASES
        ),
    )


@pytest.mark.django_db
def test_books() -> None:
    run(30)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("_harm", "function", "old", "new", "machine"),
    [
        ("a slice pays twice", "billing_settle", "h.posted_nanos + b.gross_nanos", "0", Books),
        (
            "budgets are not asked",
            "billing_reserve",
            "v_budget < v_item.least_nanos",
            "false",
            Books,
        ),
        ("spend is not noted", "billing_settle", "IF v_keys IS NOT NULL", "IF false", Books),
        (
            "a royalty is doubled",
            "billing_settle",
            "- coalesce((",
            "- 0 * coalesce((",
            BooksWithRoyalty,
        ),
        ("a part is lost", "billing_give_back", "l.held_nanos - a.nanos", "l.held_nanos", Books),
    ],
)
def test_the_machine_notices_a_wrong_function(
    _harm: str, function: str, old: str, new: str, machine: type[Books]
) -> None:
    ((source,),) = query("SELECT pg_get_functiondef(%s::regproc)", function)
    assert old in source
    with connection.cursor() as cursor:
        cursor.execute(source.replace(old, new))

    with pytest.raises((AssertionError, DatabaseError)):
        run(200, machine)
