"""Any order of top-ups, holds, settles, repeats, voids and expiries keeps the books right."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, transaction
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.models import Hold, LedgerAccount, Price, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.core.money import split_share
from marketplace.models import Account, AIModel, ModelVersion
from tests.billing.conftest import Shop, balances, hold, query, settle
from tests.billing.test_ledger import broken, record_answer

PRICE_NANOS = 1_001
SHARE_BPS = 3_333


class Books(RuleBasedStateMachine):
    """The database against a model of a few integers."""

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()
        name = new_id().hex[:12]
        creator = Account.objects.create(slug=f"creator-{name}", name="Creator")
        consumer = Account.objects.create(slug=f"consumer-{name}", name="Consumer")
        model = AIModel.objects.create(account=creator, name="echo", title="Echo")
        self.shop = Shop(
            creator,
            consumer,
            model,
            ModelVersion.objects.create(model=model, number=1),
            Price.objects.create(
                model=model,
                nanos_per_prediction=PRICE_NANOS,
                creator_share_bps=SHARE_BPS,
                valid_from="2026-01-01T00:00:00Z",
            ),
            ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=consumer.pk),
        )
        self.wallet_nanos = 0
        self.earned_nanos = 0
        self.platform_nanos = 0
        self.pending: dict = {}
        self.done: list = []

    @rule(amount_nanos=st.integers(1, 20_000))
    def top_up(self, amount_nanos: int) -> None:
        clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.TOP_UP,
            idempotency_key=f"machine:{new_id()}",
            amounts_nanos={clearing_id: -amount_nanos, self.shop.wallet_id: amount_nanos},
        )
        self.wallet_nanos += amount_nanos

    @rule(units=st.integers(1, 5), extra_nanos=st.integers(0, 3_000))
    def reserve(self, units: int, extra_nanos: int) -> None:
        amount_nanos = units * PRICE_NANOS + extra_nanos
        available_nanos = self.wallet_nanos - sum(held for _, held in self.pending.values())
        if amount_nanos > available_nanos:
            with pytest.raises(DatabaseError) as caught, transaction.atomic():
                hold(self.shop, amount_nanos)
            assert caught.value.__cause__.sqlstate == "SR402"
        else:
            self.pending[hold(self.shop, amount_nanos)] = (units, amount_nanos)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.pending)), unique=True, min_size=1))
        items = []
        for prediction_id in chosen:
            units, _ = self.pending.pop(prediction_id)
            record_answer(self.shop, prediction_id)
            items.append(self.shop.item(prediction_id, units=units))
            share_nanos, rest_nanos = split_share(units * PRICE_NANOS, SHARE_BPS)
            self.wallet_nanos -= units * PRICE_NANOS
            self.earned_nanos += share_nanos
            self.platform_nanos += rest_nanos
        assert settle(*items) == ["settled"] * len(items)
        self.done += items

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        assert settle(data.draw(st.sampled_from(self.done))) == ["repeated"]

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), expire=st.booleans())
    def give_up(self, data: st.DataObject, expire: bool) -> None:
        prediction_id = data.draw(st.sampled_from(sorted(self.pending)))
        units, _ = self.pending.pop(prediction_id)
        if expire:
            Hold.objects.filter(pk=prediction_id).update(expires_at="2020-01-01T00:00:00Z")
            assert ledger.expire_holds() == 1
        else:
            assert query("SELECT billing_void(%s)", [prediction_id]) == [(1,)]
        assert settle(self.shop.item(prediction_id, units=units)) == ["hold_missing"]

    @invariant()
    def books_are_right(self) -> None:
        held_nanos = sum(held for _, held in self.pending.values())
        expected = {
            "wallet": (self.wallet_nanos, held_nanos),
            "creator_payable": (self.earned_nanos, 0),
            "platform_revenue": (self.platform_nanos, 0),
        }
        found = balances()
        for kind, amounts in expected.items():
            assert found.get(kind, (0, 0)) == amounts
        assert broken() == set()

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)


@pytest.mark.django_db
def test_books() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Books,
        settings=hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None),
    )
