"""The queue of jobs: how fast it gives jobs out, how soon one begins, and who waits for whom.

    .venv/bin/python -m bench.broker [--small]

Starts a Postgres that flushes what it commits and a Redis, and nothing else; jobs are claimed,
booked and canceled through the functions that gateways call, each call a commit. Beside it, on the
same machine in the same run, Celery on that Redis, with acks_late and a prefetch of one. Claims
are counted: no job may be claimed twice. Stops by itself; 1 if one was, or if the books are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import redis
from psycopg.rows import dict_row

from bench.queue_stand import Stand, describe_machine, in_threads, stand

CONNECTIONS = 4
LEASE_S = 3_600.0
TENANT_JOBS = 100
_CLAIM = "SELECT id, lease_epoch FROM inference_claim(%s, %s, %s, %s)"
_FINISH = """SELECT outcome FROM inference_finish(%s, %s, %s, 'succeeded', '{"y": [1]}', '', 1000,
    NULL, true, true)"""
_CANCEL = "SELECT inference_cancel_job(%s, %s)"
_CELERY_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    depths: Sequence[int] = (1_000, 10_000, 100_000)
    claims: int = 4_000
    cycles: int = 2_000
    cancels: int = 100_000
    wakes: int = 200
    crowd: int = 10_000
    celery: int = 3_000


SMALL = Sizes((200,), claims=100, cycles=100, cancels=200, wakes=10, crowd=300, celery=100)


@dataclass(slots=True)
class Shares:
    """What several connections have done together."""

    latencies_s: list[float]
    took_s: float
    ids: list[UUID]

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.took_s


def main() -> int:
    """Measure and print; 1 if a job was claimed twice, or the books do not hold."""
    sizes = SMALL if _parse().small else Sizes()
    with stand() as made:
        print(f"{datetime.now(UTC):%d %B %Y}, {describe_machine()}\n", flush=True)
        is_right = measure_depths(made, sizes)
        print()
        asyncio.run(measure_start(made, sizes))
        measure_fairness(made, sizes)
        measure_cancels(made, sizes)
        measure_celery(made, sizes)
        is_right &= check_books()
        print(f"\n{describe_machine()}")
    return 0 if is_right else 1


# --- Rates ----------------------------------------------------------------------------


def measure_depths(made: Stand, sizes: Sizes) -> bool:
    """Claims alone, and whole jobs, by how many wait; whether each was claimed once."""
    print("| queued | claims/s | p50 ms | p99 ms | claimed and booked/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|")
    is_right = True
    for depth in sizes.depths:
        accounts = made.make_accounts(max(1, depth // TENANT_JOBS))
        ids = made.crowd(accounts, min(depth, TENANT_JOBS))
        cycles = run_cycles(made, min(sizes.cycles, depth // 4))
        claims = run_claims(made, min(sizes.claims, depth // 4))
        claimed = claims.ids + cycles.ids
        is_right &= len(set(claimed)) == len(claimed) and set(claimed) <= set(ids)
        cells = [f"{one.per_s:,.0f} | {show_ms(one.latencies_s)}" for one in (claims, cycles)]
        print(f"| {depth:,} | {' | '.join(cells)} |", flush=True)
        made.empty()
    print(f"\nclaimed twice: {'none' if is_right else 'SOME'}")
    return is_right


def run_claims(made: Stand, count: int) -> Shares:
    """So many jobs claimed, each by a slot of its own, and none finished."""

    def work(connection: psycopg.Connection[Any], node: UUID, share: int) -> Iterator[UUID]:
        for slot in range(share):
            row = connection.execute(_CLAIM, [node, slot, [made.version_id], LEASE_S]).fetchone()
            assert row is not None, "there was nothing to claim"
            yield row["id"]

    return _share(made, count, work)


def run_cycles(made: Stand, count: int, seen: Callable[[UUID], bool] | None = None) -> Shares:
    """So many jobs claimed, finished and booked; fewer when `seen` has seen enough."""

    def work(connection: psycopg.Connection[Any], node: UUID, share: int) -> Iterator[UUID]:
        for _ in range(share):
            row = connection.execute(_CLAIM, [node, 0, [made.version_id], LEASE_S]).fetchone()
            if row is None:
                return
            given = [node, row["id"], row["lease_epoch"]]
            booked = connection.execute(_FINISH, given).fetchone()
            assert booked == {"outcome": "settled"}, booked
            yield row["id"]
            if seen is not None and seen(row["id"]):
                return

    return _share(made, count, work)


def _share(
    made: Stand,
    count: int,
    work: Callable[[psycopg.Connection[Any], UUID, int], Iterator[UUID]],
) -> Shares:
    from marketplace.core.ids import new_id

    def go() -> tuple[list[float], list[UUID]]:
        latencies_s, ids = [], []
        with psycopg.connect(made.url, autocommit=True, row_factory=dict_row) as connection:
            begin_s = time.perf_counter()
            for one in work(connection, new_id(), count // CONNECTIONS):
                now_s = time.perf_counter()
                latencies_s.append(now_s - begin_s)
                ids.append(one)
                begin_s = now_s
        return latencies_s, ids

    begin_s = time.perf_counter()
    found = in_threads([go] * CONNECTIONS)
    took_s = time.perf_counter() - begin_s
    return Shares(
        [one for some, _ in found for one in some], took_s, [i for _, s in found for i in s]
    )


def show_ms(latencies_s: Sequence[float]) -> str:
    ordered = sorted(latencies_s)
    return f"{ordered[len(ordered) // 2] * 1e3:.1f} | {ordered[len(ordered) * 99 // 100] * 1e3:.1f}"


# --- How soon, and before whom --------------------------------------------------------


async def measure_start(made: Stand, sizes: Sizes) -> None:
    """From a submit at one gateway to the claim of a node that waits at another one."""
    [account] = made.make_accounts(1)
    for name, url in (("woken through Redis", made.redis_url), ("without Redis", None)):
        waits_s = await _start_often(made, account, url, sizes.wakes if url else sizes.wakes // 10)
        print(f"enqueue to start, idle node, {name}: p50 | p99 ms {show_ms(waits_s)}", flush=True)
    made.empty()


async def _start_often(made: Stand, account: UUID, url: str | None, count: int) -> list[float]:
    from inference.broker.job import Ending
    from inference.broker.postgres import PostgresBroker
    from inference.broker.wakeups import Wakeups
    from marketplace.core.ids import new_id

    brokers = [PostgresBroker(made.url, Wakeups(url)) for _ in range(2)]
    for one in brokers:
        one.wakeups.start()
        await one.open()
    here, there = brokers
    node, waits_s = new_id(), []
    for _ in range(count + 1):
        asked = asyncio.create_task(_wait_for_job(there, node, made.version_id))
        await asyncio.sleep(0.05)
        begin_s = time.perf_counter()
        assert await here.submit(made.make_job(account)) == "queued"
        lease, at_s = await asked
        waits_s.append(at_s - begin_s)
        ending = Ending(state="succeeded", output=1, predict_time_us=1, is_charged=True)
        await there.finish(node, lease.id, lease.epoch, ending)
    for one in brokers:
        await one.close()
        await one.wakeups.close()
    return waits_s[1:]


async def _wait_for_job(broker: Any, node: UUID, version_id: UUID) -> tuple[Any, float]:
    """As a gateway does for a node that asks."""
    while (lease := await broker.claim(node, 0, [version_id])) is None:
        await broker.wait_for_work(20, [version_id])
    return lease, time.perf_counter()


def measure_fairness(made: Stand, sizes: Sizes) -> None:
    """Ten jobs that come after ten thousand of another account."""
    big, small = made.make_accounts(2)
    made.crowd([big], sizes.crowd)
    few = set(made.crowd([small], 10))
    left, begin_s = set(few), time.perf_counter()

    def is_enough(job_id: UUID) -> bool:
        left.discard(job_id)
        return not left

    shares = run_cycles(made, sizes.crowd, is_enough)
    print(
        f"fairness: 10 jobs after {sizes.crowd:,} of another account were over when"
        f" {len(shares.ids):,} jobs had been run, after {time.perf_counter() - begin_s:.2f} s",
        flush=True,
    )
    made.empty()


def measure_cancels(made: Stand, sizes: Sizes) -> None:
    """All that one account has waiting is canceled, oldest first, over several connections."""
    [account] = made.make_accounts(1)
    ids = made.crowd([account], sizes.cancels)
    parts = [ids[number::CONNECTIONS] for number in range(CONNECTIONS)]

    def cancel(some: Sequence[UUID]) -> list[float]:
        took_s = []
        with psycopg.connect(made.url, autocommit=True) as connection:
            for one in some:
                begin_s = time.perf_counter()
                connection.execute(_CANCEL, [account, one])
                took_s.append(time.perf_counter() - begin_s)
        return took_s

    begin_s = time.perf_counter()
    found = in_threads([lambda some=some: cancel(some) for some in parts])
    took_s = time.perf_counter() - begin_s
    tenth = len(found[0]) // 10
    first, last = (
        [one for some in found for one in some[part]]
        for part in (slice(tenth), slice(-tenth, None))
    )
    print(
        f"cancel: {len(ids):,} at once took {took_s:.1f} s, {len(ids) / took_s:,.0f}/s;"
        f" the first tenth p50 | p99 ms {show_ms(first)}, the last {show_ms(last)}",
        flush=True,
    )
    made.empty()


# --- Celery ---------------------------------------------------------------------------


def measure_celery(made: Stand, sizes: Sizes) -> None:
    """The same with tasks that do nothing but note when they began."""
    url = made.admin_redis_url
    os.environ["BENCH_CELERY_URL"] = url
    from bench import celery_queue

    client = redis.Redis.from_url(url)
    with celery_worker(url):
        rate = _run_celery(client, celery_queue, sizes.celery)
        print(f"\nCelery, {CONNECTIONS} processes, acks_late: {rate:,.0f} tasks/s", flush=True)
        waits_s = []
        for _ in range(sizes.wakes):
            client.delete(celery_queue.STARTED)
            celery_queue.run.delay("one", time.time())
            found = client.blpop([celery_queue.STARTED], timeout=30)
            waits_s.append(float(found[1].split()[1]))
            time.sleep(0.02)
        print(f"Celery, enqueue to start: p50 | p99 ms {show_ms(waits_s)}", flush=True)
        client.delete(celery_queue.STARTED)
        for tenant, count in (("big", sizes.celery), ("small", 10)):
            _send(client, celery_queue, tenant, count)
        _await_notes(client, celery_queue.STARTED, sizes.celery + 10)
        names = [one.split()[0] for one in client.lrange(celery_queue.STARTED, 0, -1)]
        place = max(number for number, name in enumerate(names, 1) if name == b"small")
        print(f"Celery, fairness: 10 tasks after {sizes.celery:,} were over after {place:,} tasks")


def _run_celery(client: Any, module: Any, count: int) -> float:
    """Tasks a second, from the first that begins to the last."""
    _send(client, module, "one", count)
    _await_notes(client, module.STARTED, count)
    at_s = sorted(float(one.split()[2]) for one in client.lrange(module.STARTED, 0, -1))
    client.delete(module.STARTED)
    return (count - 1) / (at_s[-1] - at_s[0])


def _send(client: Any, module: Any, tenant: str, count: int) -> None:
    with module.app.connection_for_write() as connection:
        producer = module.app.amqp.Producer(connection)
        for _ in range(count):
            module.run.apply_async([tenant, time.time()], producer=producer)


def _await_notes(client: Any, name: str, count: int) -> None:
    deadline_s = time.monotonic() + _CELERY_WITHIN_S
    while client.llen(name) < count:
        assert time.monotonic() < deadline_s, "Celery did not get through"
        time.sleep(0.05)


@contextmanager
def celery_worker(url: str) -> Iterator[None]:
    """As many processes as connections, one task each."""
    command = [sys.executable, "-m", "celery", "-A", "bench.celery_queue", "worker"]
    command += ["--concurrency", str(CONNECTIONS), "-Q", "bench", "-l", "ERROR", "-O", "fair"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    # A plain Celery: not our settings, nor our log of each task.
    env = {"PATH": os.environ["PATH"], "BENCH_CELERY_URL": url, "C_FORCE_ROOT": "1"}
    env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    process = subprocess.Popen(command, env=env, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


# --- Afterwards -----------------------------------------------------------------------


def check_books() -> bool:
    """Whether every invariant of the ledger holds that needs no worker."""
    from django.db import connection, transaction

    from billing.selectors.ledger import check_invariants

    with transaction.atomic():
        found = {one.invariant.name for one in check_invariants() if one.count}
    # No worker runs here that seals receipts, and a run may take longer than it would.
    broken = found - {"charges-are-sealed"}
    connection.close()
    print(f"\nbooks: {', '.join(sorted(broken)) or 'every invariant holds'}")
    return not broken


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="only whether it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
