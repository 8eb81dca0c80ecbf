"""A fleet in one process that does all that nodes should not, at a queue whose wires are cut.

Faster than real processes, so that a queue that is wrong on purpose is found out in seconds. Leases
are short here, and no clock is changed but that of the pause before another attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

import psycopg

from inference.broker.job import BrokerUnavailableError, Ending, Lease
from inference.broker.postgres import PostgresBroker
from inference.models import Job
from marketplace.core.ids import new_id
from tests.chaos.queue_judge import Known, Told, judge
from tests.inference.broker.conftest import PRICE_NANOS, Queue

LEASE_S = 1.5
NODE_COUNT = 6
# Of a node; most of them only wait until they are too late.
RUNNING_MAX = 8
# What a node does with a lease, and how many of a hundred of them.
FATES = {"finish": 55, "twice": 10, "die": 8, "zombie": 15, "give back": 6, "cancel": 6}
_TRICK_S = 0.05
_LIMIT_S = 180.0
T = TypeVar("T")


class DiedError(Exception):
    """Node and gateway were killed in the middle of a call, and nobody asks again."""


class Rehearsal:
    """Runs jobs of a queue to their end, and judges what came of it.

    Args:
        queue: The shop and its real broker.
        superuser_url: Of the database: it ends connections.
        seed: Decides who does what.
        broker: Another one than the queue's, wrong on purpose.
    """

    def __init__(
        self, queue: Queue, superuser_url: str, seed: int, *, broker: PostgresBroker | None = None
    ) -> None:
        self.queue = queue
        self.broker = broker or queue.broker
        self.told: list[Told] = []
        self.refused: list[str] = []
        self.cut_count = 0
        self._superuser_url = superuser_url
        self._random = random.Random(seed)
        self._is_over = False

    def run(self, count: int) -> list[str]:
        """Run so many jobs; the faults that were found."""
        ids = self.queue.submit(count - count // 4)
        ids += self.queue.submit(count // 4, attempts_max=1)
        self.queue.run(self._run())
        self.queue.reap()
        known = Known(
            outputs={one: {"y": 1} for one in ids},
            told=self.told,
            consumer=self.queue.consumer,
            funded_nanos=10_000 * PRICE_NANOS,
            price_nanos=PRICE_NANOS,
            replays={},
        )
        return judge(known)

    @staticmethod
    def count(state: str) -> int:
        return Job.objects.filter(state=state).count()

    async def _run(self) -> None:
        async with asyncio.timeout(_LIMIT_S):
            async with asyncio.TaskGroup() as group:
                nodes = [group.create_task(self._work(new_id())) for _ in range(NODE_COUNT)]
                group.create_task(self._play_tricks())
                await asyncio.wait(nodes)
                self._is_over = True

    async def _work(self, node_id: UUID) -> None:
        """A node with a slot for each lease, as those that it forgot stay taken."""
        slot, running = 0, set[asyncio.Task[None]]()
        while not self._is_over:
            slot += 1
            versions, lease = [self.queue.version.pk], None
            with suppress(BrokerUnavailableError):
                lease = await self.broker.claim(node_id, slot, versions, lease_s=LEASE_S)
            if lease is not None:
                running.add(asyncio.create_task(self._run_job(lease)))
            running = {one for one in running if not one.done()}
            if lease is None or len(running) >= RUNNING_MAX:
                await asyncio.sleep(0.05)
        await asyncio.gather(*running)

    async def _run_job(self, lease: Lease) -> None:
        chance, fates = self._random, list(FATES)
        [fate] = chance.choices(fates, [FATES[one] for one in fates])
        await asyncio.sleep(chance.uniform(0, 0.05))
        match fate:
            case "die":
                return
            case "give back":
                await self._insist(lambda: self._hand_back(lease))
                return
            case "cancel":
                await self._insist(lambda: self.broker.cancel(lease.account_id, lease.id))
                await asyncio.sleep(chance.choice([0.0, 2 * LEASE_S]))
            case "zombie":
                # It runs on, and nobody hears of it until its lease is over.
                await asyncio.sleep(LEASE_S * chance.uniform(1.1, 3))
        await self._insist(lambda: self._finish(lease))
        if fate == "twice":
            await self._insist(lambda: self._finish(lease))

    async def _finish(self, lease: Lease) -> None:
        ending = Ending(state="succeeded", output={"y": 1}, predict_time_us=1, is_charged=True)
        outcome, _ = await self.broker.finish(lease.node_id, lease.id, lease.epoch, ending)
        self.told.append(Told(lease.id, lease.epoch, outcome))

    async def _hand_back(self, lease: Lease) -> None:
        await self.broker.hand_back(lease.node_id, lease.id, lease.epoch, "triton_unavailable")

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> None:
        """Again until it is answered; what was done meanwhile nobody knows."""
        for _ in range(20):
            try:
                await ask()
                return
            except BrokerUnavailableError:
                await asyncio.sleep(0.05)
            except DiedError:
                return
            except psycopg.Error as error:
                # The database itself refuses: only a queue that is wrong comes to that.
                self.refused.append(str(error))
                return

    async def _play_tricks(self) -> None:
        """Cut the broker's wires, shorten pauses, and see whether all is over."""
        async with await psycopg.AsyncConnection.connect(
            self._superuser_url, autocommit=True
        ) as connection:
            while not self._is_over:
                await asyncio.sleep(_TRICK_S)
                await self._cut(connection)
                with suppress(BrokerUnavailableError):
                    await self.queue.broker.reap()
                await connection.execute(
                    "UPDATE inference_job SET ready_at = least(ready_at, now() - interval '31 s')"
                    " WHERE state = 'queued' AND attempt > 0"
                )
                found = await connection.execute(
                    "SELECT count(*) FROM inference_job WHERE finished_at IS NULL"
                )
                self._is_over = await found.fetchone() == (0,)

    async def _cut(self, connection: psycopg.AsyncConnection) -> None:
        """End one of the broker's connections, wherever it stands."""
        found = await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'strongroom-broker' AND state = 'active'"
            " AND datname = current_database() AND usename <> current_user LIMIT 1"
        )
        self.cut_count += len(await found.fetchall())
