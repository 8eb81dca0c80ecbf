"""A shop with credit, and a queue in front of it: with Redis for wake-ups, and without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest
from django.utils import timezone

from billing.models import Hold, LedgerAccount, Price, Transfer, UsageEvent
from billing.selectors.ledger import check_invariants
from billing.services import ledger
from inference.broker.job import Beat, Ending, Lease, NewJob
from inference.broker.postgres import PostgresBroker
from inference.broker.wakeups import Wakeups
from inference.models import Prediction
from marketplace.core.ids import new_id
from marketplace.models import Account, ModelVersion
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory

T = TypeVar("T")
PRICE_NANOS = 1_001


@dataclass
class Queue:
    """A broker and one loop for all calls of a test; jobs of `consumer` unless told otherwise."""

    broker: PostgresBroker
    runner: asyncio.Runner
    consumer: Account
    version: ModelVersion
    price: Price
    nodes: list[UUID] = field(default_factory=lambda: [new_id() for _ in range(3)])

    def run(self, what: Awaitable[T]) -> T:
        async def wait() -> T:
            return await what

        return self.runner.run(wait())

    def make(self, **changes: Any) -> NewJob:
        given: dict[str, Any] = {
            "id": new_id(),
            "account_id": self.consumer.pk,
            "version_id": self.version.pk,
            "creator_id": self.version.model.account_id,
            "price_id": self.price.pk,
            "gross_nanos": PRICE_NANOS,
            "input": {"x": [1, 2]},
        }
        return NewJob(**(given | changes))

    def submit(self, count: int = 1, **changes: Any) -> list[UUID]:
        jobs = [self.make(**changes) for _ in range(count)]
        assert [self.run(self.broker.submit(one)) for one in jobs] == ["queued"] * count
        return [one.id for one in jobs]

    def claim(self, node: int = 0, slot: int = 0, **changes: Any) -> Lease | None:
        versions = changes.pop("versions", [self.version.pk])
        return self.run(self.broker.claim(self.nodes[node], slot, versions, **changes))

    def beat(self, lease: Lease, *, is_running: bool = True, **changes: Any) -> str:
        beats = [Beat(lease.id, lease.epoch, is_running)]
        words = self.run(self.broker.heartbeat(lease.node_id, beats, **changes))
        return words[lease.id]

    def finish(self, lease: Lease, state: str = "succeeded", **changes: Any) -> tuple[str, int]:
        given = {"output": {"y": 1}, "predict_time_us": 5_000, "is_charged": state == "succeeded"}
        ending = Ending(state=state, **(given | changes))
        return self.run(self.broker.finish(lease.node_id, lease.id, lease.epoch, ending))

    def hand_back(self, lease: Lease, code: str = "triton_unavailable") -> str:
        return self.run(self.broker.hand_back(lease.node_id, lease.id, lease.epoch, code))

    def cancel(self, job_id: UUID, account: Account | None = None) -> str | None:
        return self.run(self.broker.cancel((account or self.consumer).pk, job_id))

    def reap(self) -> dict[str, int]:
        return self.run(self.broker.reap())

    def state_of(self, job_id: UUID) -> str:
        from inference.models import Job

        return Job.objects.get(pk=job_id).state

    def check_books(self, succeeded: list[UUID], price_nanos: int = PRICE_NANOS) -> None:
        """These and no others were paid for, once each; nothing is reserved any more."""
        assert set(UsageEvent.objects.values_list("pk", flat=True)) == set(succeeded)
        assert set(
            Prediction.objects.filter(state="succeeded").values_list("pk", flat=True)
        ) == set(succeeded)
        wallet = LedgerAccount.objects.get(kind="wallet", holder_id=self.consumer.pk)
        assert wallet.posted_nanos == 10_000 * PRICE_NANOS - len(succeeded) * price_nanos
        assert not Hold.objects.filter(state="pending").exists()
        assert wallet.held_nanos == 0
        assert [one.invariant.name for one in check_invariants() if one.count] == []


@pytest.fixture(params=["redis", "alone"])
def queue(request, transactional_db, database_urls, redis_client, redis_url) -> Iterator[Queue]:
    yield from make_queue(database_urls["gateway"], redis_url if request.param == "redis" else None)


@pytest.fixture
def plain_queue(transactional_db, database_urls) -> Iterator[Queue]:
    yield from make_queue(database_urls["gateway"], None)


def make_queue(url: str, redis_url: str | None) -> Iterator[Queue]:
    creator, consumer = AccountFactory(slug="maker"), AccountFactory(slug="buyer")
    version = make_version(creator, "echo")
    fund(consumer, 10_000 * PRICE_NANOS)
    with asyncio.Runner() as runner:
        wakeups = Wakeups(redis_url)
        broker = PostgresBroker(url, wakeups)

        async def start() -> None:
            wakeups.start()
            await broker.open()

        async def stop() -> None:
            await broker.close()
            await wakeups.close()

        runner.run(start())
        yield Queue(broker, runner, consumer, version, version.model.prices.get())
        runner.run(stop())


def make_version(creator: Account, name: str) -> ModelVersion:
    model = AIModelFactory(account=creator, name=name)
    Price.objects.create(
        model=model,
        nanos_per_prediction=PRICE_NANOS,
        creator_share_bps=8_000,
        valid_from=timezone.now(),
    )
    return ModelVersionFactory(model=model, number=1)


def fund(account: Account, amount_nanos: int) -> None:
    """Put credit into a wallet, as a top-up does."""
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={clearing_id: -amount_nanos, wallet_id: amount_nanos},
    )
