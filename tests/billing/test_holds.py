"""Holds for many predictions at once: as exact as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import DatabaseError, connections, transaction

from billing.models import Hold, LedgerAccount, Transfer
from billing.services import ledger
from marketplace.core.ids import new_id
from marketplace.models import Account
from tests.billing.conftest import (
    PRICE_NANOS,
    Shop,
    asked,
    balances,
    give_back,
    reserve,
    settle,
)

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
HELD, SHORT = "held", "insufficient_credit"


def open_wallet(slug: str, nanos: int) -> Account:
    account = Account.objects.create(slug=slug, name=slug)
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{slug}",
        amounts_nanos={clearing_id: -nanos, wallet_id: nanos},
    )
    return account


def hold_many(*items: tuple[UUID, int]) -> list[str]:
    """The outcomes of holds for (account, nanos) each, in one call."""
    return [outcome for _, _, outcome in reserve(*(asked(one, nanos) for one, nanos in items))]


def wallet_of(account: Account) -> tuple[int, int]:
    row = LedgerAccount.objects.get(holder_id=account.pk, kind="wallet")
    return row.posted_nanos, row.held_nanos


def test_all_that_a_wallet_pays_for_is_held(shop: Shop, fund: Fund) -> None:
    fund(600)
    account = shop.consumer.pk

    assert hold_many((account, 100), (account, 200), (account, 300)) == [HELD] * 3

    assert balances()["wallet"] == (600, 600)
    rows = Hold.objects.order_by("amount_nanos").values_list("amount_nanos", "state")
    assert list(rows) == [(100, "pending"), (200, "pending"), (300, "pending")]


def test_one_nano_too_little_stops_only_what_it_does_not_pay_for(shop: Shop, fund: Fund) -> None:
    fund(599)
    account = shop.consumer.pk

    outcome = hold_many((account, 100), (account, 300), (account, 200), (account, 199))

    # In their order, as if each had come alone: the last one fits where the one before did not.
    assert outcome == [HELD, HELD, SHORT, HELD]
    assert balances()["wallet"] == (599, 599)


def test_wallets_do_not_pay_for_each_other(shop: Shop, fund: Fund) -> None:
    rich, poor = open_wallet("rich", 10_000), open_wallet("poor", 5)
    nobody = Account.objects.create(slug="nobody", name="nobody")

    outcome = hold_many((rich.pk, 10), (poor.pk, 6), (nobody.pk, 1), (rich.pk, 20), (poor.pk, 5))

    assert outcome == [HELD, SHORT, SHORT, HELD, HELD]
    assert (wallet_of(rich), wallet_of(poor)) == ((10_000, 30), (5, 5))
    assert not LedgerAccount.objects.filter(holder_id=nobody.pk).exists()


@pytest.mark.parametrize("nanos", [0, -1])
def test_an_amount_that_is_none_holds_nothing_of_the_batch(
    shop: Shop, fund: Fund, nanos: int
) -> None:
    fund(100)
    account = shop.consumer.pk

    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        hold_many((account, 10), (account, nanos))

    assert caught.value.__cause__.sqlstate == "SR422"
    assert (Hold.objects.count(), balances()["wallet"]) == (0, (100, 0))


def test_a_hold_of_a_batch_is_settled_like_any_other(shop: Shop, fund: Fund) -> None:
    fund(3 * PRICE_NANOS)
    hold_many((shop.consumer.pk, PRICE_NANOS), (shop.consumer.pk, PRICE_NANOS))
    first, second = Hold.objects.order_by("pk").values_list("pk", flat=True)

    assert settle(shop.item(first)) == ["settled"]
    assert give_back(second) == 1

    assert balances()["wallet"] == (2 * PRICE_NANOS, 0)


@pytest.mark.django_db(transaction=True)
def test_batches_at_once_hold_exactly_what_there_is(shop: Shop, fund: Fund) -> None:
    affordable, threads_count, each = 37, 8, 10
    fund(affordable * PRICE_NANOS + PRICE_NANOS - 1)
    outcomes: list[str] = []
    barrier = threading.Barrier(threads_count)

    def take() -> None:
        try:
            barrier.wait()
            outcomes.extend(hold_many(*[(shop.consumer.pk, PRICE_NANOS)] * each))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [HELD] * affordable + [SHORT] * (threads_count * each - affordable)
    assert (
        balances()["wallet"][1]
        == affordable * PRICE_NANOS
        == sum(Hold.objects.values_list("amount_nanos", flat=True))
    )
