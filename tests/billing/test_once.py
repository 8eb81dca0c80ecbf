"""Where it is remembered what was done: in the transaction that does it, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from billing.models import LedgerAccount, StripeEvent, Transfer
from billing.services import ledger, stripe_event, topup
from marketplace.core.ids import new_id
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import Shop, balances
from tests.billing.prepaid.flows import Flows
from tests.billing.stand_in import asked_of, running
from tests.billing.test_topup import sign

pytestmark = pytest.mark.django_db

Post = Callable[..., bool]


class WorkerDiedError(Exception):
    """Of a worker, in the middle of its work."""


@pytest.fixture
def flows(tmp_path, settings, owner: User, account: Account) -> Iterator[Flows]:
    with running(tmp_path) as process, asked_of(process, settings):
        yield Flows(process, Actor(user=owner), account)


# --- A webhook is stored before it is applied ---


def die(_topup_id: UUID) -> None:
    raise WorkerDiedError


def hear_and_die(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment is told of once; whoever looks at it dies, and somebody sweeps later."""
    flows.pay(flows.start(2_500))
    (event,) = [one for one in flows.events() if one["type"] == "checkout.session.completed"]
    payload = json.dumps(event).encode()
    with monkeypatch.context() as patch, suppress(WorkerDiedError):
        patch.setattr(topup, "settle_topup", die)
        row = stripe_event.receive_event(payload, sign(payload))
        stripe_event.apply_event(row.pk)

    stripe_event.sweep_events()

    assert StripeEvent.objects.get().state == StripeEvent.State.APPLIED
    assert flows.wallet_cents() == 2_500


def test_an_event_outlives_the_worker_that_applies_it(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_and_die(flows, monkeypatch)


def test_an_event_that_is_applied_before_it_is_stored_would_be_lost(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    store = stripe_event._store

    def apply_and_store(event: Any) -> Any:
        stripe_event.HANDLERS[event.type](event.object_id)
        return store(event)

    monkeypatch.setattr(stripe_event, "_store", apply_and_store)

    with pytest.raises(StripeEvent.DoesNotExist):
        hear_and_die(flows, monkeypatch)
    assert flows.wallet_cents() == 0


# --- A key is in the row that it guards ---


def book(post: Post, shop: Shop) -> None:
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    post(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key="topup:pi_1",
        amounts_nanos={clearing_id: -7, shop.wallet_id: 7},
    )


def try_until_done(post: Post, shop: Shop, forget: Callable[[], None]) -> None:
    """The first try dies before its commit, the third comes after a restart of the cache."""
    with suppress(WorkerDiedError), transaction.atomic():
        book(post, shop)
        raise WorkerDiedError
    book(post, shop)
    assert balances()["wallet"] == (7, 0)
    forget()
    book(post, shop)
    assert balances()["wallet"] == (7, 0)


def test_a_key_comes_and_goes_with_its_transfer(shop: Shop) -> None:
    try_until_done(ledger.post_transfer, shop, lambda: None)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_key_that_is_kept_outside_the_database_is_noticed(shop: Shop, when: str) -> None:
    """The control: as SET NX in a cache does, before the booking or once it is made."""
    cache: set[str] = set()

    def post(**more: Any) -> bool:
        key = more["idempotency_key"]
        if key in cache:
            return False
        cache.update({key} if when == "before" else ())
        ledger.post_transfer(**more | {"idempotency_key": str(new_id())})
        cache.add(key)
        return True

    with pytest.raises((AssertionError, KeyError)):
        try_until_done(post, shop, cache.clear)
