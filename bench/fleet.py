"""A thousand nodes without a GPU at the real queue: who waits, how busy they are, who asks in vain.

    .venv/bin/python -m bench.fleet [--seconds 300] [--small]

Time is virtual: an event loop whose clock jumps to the next event runs the real wake-ups
(`inference.broker.wakeups`) and calls the real SQL (submit, claim, heartbeat, finish, reap) in a
real Postgres, in which only `clock_timestamp()` is replaced by that clock. So the figures are of
the queue and its traffic, and not of the machine, however busy. Each call takes the time given in
`COSTS_S` and one of the few connections of its gateway; what runs at once waits for one. What is
not in it: locks that collide, as calls follow each other here, and HTTP. A run of a model takes a
random time. Curves are written to docs/images.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import selectors
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from bench.plot import draw
from bench.queue_stand import PRICE_NANOS, Stand, describe_machine, stand

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CLASSES = ("high", "normal", "batch")
# Seconds of one call, from a quiet machine; of a gateway so many connections.
COSTS_S = {"submit": 0.004, "claim": 0.003, "heartbeat": 0.002, "finish": 0.006, "reap": 0.004}
POOL_SIZE = 8
GATEWAYS = 4
# From one gateway to the others, through Redis.
TELL_S = 0.001
HEARTBEAT_S, LEASE_S, CLAIM_WAIT_S = 10.0, 30.0, 20.0
NET_S = 0.002
SAMPLE_S = 1.0
MODEL_COUNT = 8
# Times as long as jobs come: by then even the last flood must be over.
OVER_AFTER = 20


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who sends: so many jobs a second by chance, and bursts of so many now and then."""

    name: str
    share: float
    priorities: Sequence[int]
    burst: int = 0
    burst_every_s: float = 0.0


# The first sends as much as all others together, in floods; the last are many and small.
TENANTS = (
    Tenant("flood", 0.0, (2,), burst=2_000, burst_every_s=100.0),
    Tenant("studio", 0.35, (1,), burst=200, burst_every_s=45.0),
    Tenant("app", 0.25, (0, 1)),
    *(Tenant(f"small-{number}", 0.4 / 20, (0, 1, 2)) for number in range(20)),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much of what.

    Args:
        nodes: With one slot each.
        seconds: How long jobs come; then all are run to their end.
        load: Of the nodes, without the bursts.
        run_s: Mean of a run.
    """

    nodes: int
    seconds: float
    load: float = 0.6
    run_s: float = 15.0
    lost_per_s: float = 0.02

    @property
    def jobs_per_s(self) -> float:
        return self.nodes * self.load / self.run_s


@dataclass
class Seen:
    """What was measured."""

    waits_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    waits_of_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    calls: Counter[str] = field(default_factory=Counter)
    pool_waits_s: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    submitted: int = 0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time jumps to the next event instead of waiting for it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now_s


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self._loop.now_s += timeout
        return super().select(0)


class Database:
    """One connection, on which the clock is set before each call."""

    def __init__(self, made: Stand) -> None:
        self._began_at = time.time()
        self._connection = psycopg.connect(
            made.owner_url, autocommit=True, row_factory=dict_row, prepare_threshold=2
        )
        self._connection.execute("SET synchronous_commit = off")
        self._connection.execute("SELECT set_config('bench.now', clock_timestamp()::text, false)")
        self._replace_clock()

    def call(self, query: str, given: Sequence[Any]) -> list[dict[str, Any]]:
        now_s = self._began_at + asyncio.get_running_loop().time()
        with self._connection.pipeline():
            self._connection.execute(
                "SELECT set_config('bench.now', to_timestamp(%s)::text, false)", [now_s]
            )
            cursor = self._connection.execute(query, given)
            return cursor.fetchall()

    def close(self) -> None:
        """Give the real functions back."""
        for source in self._real:
            self._connection.execute(source)
        self._connection.execute("DROP FUNCTION bench_now")
        self._connection.close()

    def _replace_clock(self) -> None:
        self._connection.execute(
            "CREATE FUNCTION bench_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
            " $$ SELECT current_setting('bench.now')::timestamptz $$"
        )
        rows = self._connection.execute(
            "SELECT pg_get_functiondef(p.oid) AS source FROM pg_proc p"
            " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public'"
            " AND p.proname ~ '^(inference|billing)_' AND p.prosrc LIKE '%clock_timestamp()%'"
        ).fetchall()
        self._real = [row["source"] for row in rows]
        for source in self._real:
            self._connection.execute(source.replace("clock_timestamp()", "bench_now()"))


class Gateway:
    """The real wake-ups, a pool of connections, and calls that take their time."""

    def __init__(self, fleet: Fleet) -> None:
        from inference.broker.wakeups import Wakeups

        self.fleet = fleet
        self.wakeups = Wakeups(None)
        self._pool = asyncio.Semaphore(POOL_SIZE)

    @asynccontextmanager
    async def _connection(self) -> Any:
        asked_s = self.fleet.now_s
        async with self._pool:
            self.fleet.seen.pool_waits_s.append(self.fleet.now_s - asked_s)
            yield

    async def call(self, name: str, query: str, given: Sequence[Any]) -> list[dict[str, Any]]:
        async with self._connection():
            self.fleet.seen.calls[name] += 1
            await asyncio.sleep(COSTS_S[name])
            return self.fleet.database.call(query, given)

    async def tell(self, version_id: UUID) -> None:
        await self.wakeups.tell(version_id)
        for other in self.fleet.gateways:
            if other is not self:
                asyncio.get_running_loop().call_later(TELL_S, other.wakeups.wake, version_id)

    async def submit(self, tenant: Tenant, account: UUID, version_id: UUID) -> None:
        import orjson

        chance = self.fleet.chance
        job = self.fleet.made.make_job(account, version_id=version_id)
        document = {
            "id": job.id,
            "account_id": account,
            "version_id": version_id,
            "creator_id": job.creator_id,
            "price_id": job.price_id,
            "gross_nanos": PRICE_NANOS,
            "priority": chance.choice(tenant.priorities),
            "expected_ms": int(self.fleet.traffic.run_s * 1e3),
            "timeout_s": 36_000,
            "attempts_max": 3,
        }
        query = "SELECT inference_submit(%s::jsonb, '{}', 1000000) AS outcome"
        [row] = await self.call("submit", query, [orjson.dumps(document).decode()])
        assert row["outcome"] == "queued", row
        self.fleet.note_submitted(job.id, tenant.name, CLASSES[document["priority"]])
        await self.tell(version_id)

    async def claim(self, node: UUID, versions: list[UUID]) -> dict[str, Any] | None:
        """As `/node/v1/claim` does: again when woken, until its time is over."""
        deadline_s = self.fleet.now_s + CLAIM_WAIT_S
        query = "SELECT id, lease_epoch FROM inference_claim(%s, 0, %s, %s)"
        while True:
            rows = await self.call("claim", query, [node, versions, LEASE_S])
            if rows:
                self.wakeups.wake(versions[0])
                return rows[0]
            self.fleet.seen.calls["empty claim"] += 1
            left_s = deadline_s - self.fleet.now_s
            if left_s <= 0:
                return None
            await self.wakeups.wait(left_s, versions)

    async def reap(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            while True:
                [row] = await self.call("reap", "SELECT inference_reap() AS what", [])
                if row["what"] is None:
                    break
                self.fleet.seen.calls[f"reaped {row['what']}"] += 1


class Fleet:
    """Everything in one virtual time."""

    def __init__(self, made: Stand, traffic: Traffic, seed: int) -> None:
        self.made, self.traffic = made, traffic
        self.chance = random.Random(seed)
        self.seen = Seen()
        self.database = Database(made)
        self.gateways = [Gateway(self) for _ in range(GATEWAYS)]
        self.waiting: dict[UUID, tuple[float, str, str]] = {}
        self.running_count = 0
        self.is_over = False

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def note_submitted(self, job_id: UUID, tenant: str, kind: str) -> None:
        self.seen.submitted += 1
        self.waiting[job_id] = (self.now_s, tenant, kind)

    async def run(self, versions: list[UUID], accounts: Sequence[UUID]) -> None:
        others: list[asyncio.Task[None]] = []

        def begin(what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            others.append(asyncio.create_task(what))
            return others[-1]

        for one in self.gateways:
            one.wakeups.start()
            begin(one.reap())
        begin(self._sample())
        for number in range(self.traffic.nodes):
            # Each node has one model loaded; the first ones have the most nodes, and each has one.
            place = number if number < MODEL_COUNT else int(self.chance.expovariate(0.5))
            version = versions[min(MODEL_COUNT - 1, place)]
            begin(self._work(self.gateways[number % GATEWAYS], version))
        feeding = []
        for tenant, account in zip(TENANTS, accounts, strict=True):
            feeding += [begin(one) for one in self._feeds(tenant, account, versions)]
        await asyncio.wait(feeding)
        while self.waiting or self.running_count:
            await asyncio.sleep(1.0)
            assert self.now_s < OVER_AFTER * self.traffic.seconds, f"{self.waiting} wait for ever"
        self.is_over = True
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for gateway in self.gateways:
            await gateway.wakeups.close()

    def _feeds(
        self, tenant: Tenant, account: UUID, versions: list[UUID]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        if tenant.share:
            yield self._feed(tenant, account, versions)
        if tenant.burst:
            yield self._flood(tenant, account, versions)

    async def _feed(self, tenant: Tenant, account: UUID, versions: list[UUID]) -> None:
        """A Poisson process."""
        while True:
            await asyncio.sleep(self.chance.expovariate(self.traffic.jobs_per_s * tenant.share))
            if self.now_s > self.traffic.seconds:
                return
            await self._submit(tenant, account, versions)

    async def _flood(self, tenant: Tenant, account: UUID, versions: list[UUID]) -> None:
        """All at once, over all gateways, again and again."""
        size = round(tenant.burst * self.traffic.nodes / 1_000)
        at_s = tenant.burst_every_s / 2
        while at_s < self.traffic.seconds:
            await asyncio.sleep(at_s - self.now_s)
            await asyncio.gather(*[self._submit(tenant, account, versions) for _ in range(size)])
            at_s += tenant.burst_every_s

    async def _submit(self, tenant: Tenant, account: UUID, versions: list[UUID]) -> None:
        version = versions[min(MODEL_COUNT - 1, int(self.chance.expovariate(0.5)))]
        await self.chance.choice(self.gateways).submit(tenant, account, version)

    async def _work(self, gateway: Gateway, version_id: UUID) -> None:
        """A node: one job at a time; now and then it dies, and comes back as another one."""
        from marketplace.core.ids import new_id

        node = new_id()
        while not self.is_over:
            await asyncio.sleep(NET_S)
            row = await gateway.claim(node, [version_id])
            if row is None:
                continue
            await asyncio.sleep(NET_S)
            if row["id"] in self.waiting:
                asked_s, tenant, kind = self.waiting.pop(row["id"])
                self.seen.waits_s[kind].append(self.now_s - asked_s)
                self.seen.waits_of_s[tenant].append(self.now_s - asked_s)
            self.running_count += 1
            run_s = self.chance.lognormvariate(0.0, 0.7) / 1.278 * self.traffic.run_s
            dies = self.chance.random() < self.traffic.lost_per_s * run_s / self.traffic.nodes
            lived_s = run_s * self.chance.random() if dies else run_s
            await self._beat(gateway, node, row, lived_s)
            self.running_count -= 1
            if dies:
                self.seen.calls["died"] += 1
                self.waiting[row["id"]] = (self.now_s, "lost", "lost with its node")
                node = new_id()
                await asyncio.sleep(60.0)
                continue
            query = """SELECT outcome FROM inference_finish(%s, %s, %s, 'succeeded', '{}', '',
                %s, NULL, true, true)"""
            given = [node, row["id"], row["lease_epoch"], int(run_s * 1e6)]
            [booked] = await gateway.call("finish", query, given)
            self.seen.calls[f"finish: {booked['outcome']}"] += 1

    async def _beat(
        self, gateway: Gateway, node: UUID, row: dict[str, Any], lived_s: float
    ) -> None:
        until_s = self.now_s + lived_s
        query = "SELECT word FROM inference_heartbeat(%s, %s, %s, '{true}', %s)"
        while (left_s := until_s - self.now_s) > HEARTBEAT_S:
            await asyncio.sleep(HEARTBEAT_S)
            given = [node, [row["id"]], [row["lease_epoch"]], LEASE_S]
            await gateway.call("heartbeat", query, given)
        await asyncio.sleep(max(0.0, left_s))
        self.seen.busy_s += lived_s

    async def _sample(self) -> None:
        while True:
            depth = Counter(kind for _, _, kind in self.waiting.values())
            for kind in CLASSES:
                self.seen.curves[f"waiting {kind}"].append((self.now_s, depth[kind]))
            share = 100 * self.running_count / self.traffic.nodes
            self.seen.curves["busy"].append((self.now_s, share))
            for name in ("claim", "empty claim"):
                self.seen.curves[name].append((self.now_s, self.seen.calls[name]))
            await asyncio.sleep(SAMPLE_S)


def main() -> int:
    """Simulate, print, and draw; 1 if a job was lost or booked twice."""
    options = _parse()
    traffic = Traffic(40, 30.0) if options.small else Traffic(1_000, options.seconds)
    with stand() as made:
        began_s = time.monotonic()
        fleet, took_s = simulate(made, traffic)
        is_right = report(fleet, took_s, time.monotonic() - began_s)
    if not options.small:
        write_images(fleet)
    return 0 if is_right else 1


def simulate(made: Stand, traffic: Traffic, seed: int = 7) -> tuple[Fleet, float]:
    """The fleet afterwards, and for how many virtual seconds it ran."""
    versions = make_versions(made)
    accounts = made.make_accounts(len(TENANTS))
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)

    async def run() -> Fleet:
        fleet = Fleet(made, traffic, seed)
        await fleet.run(versions, accounts)
        return fleet

    fleet = loop.run_until_complete(run())
    loop.close()
    asyncio.set_event_loop(None)
    fleet.database.close()
    return fleet, loop.now_s


def make_versions(made: Stand) -> list[UUID]:
    """As many versions of the same model, under its price."""
    from marketplace.models import ModelVersion
    from tests.factories import ModelVersionFactory

    model = ModelVersion.objects.get(pk=made.version_id).model
    first = ModelVersion.objects.filter(model=model).count() + 1
    return [ModelVersionFactory(model=model, number=first + n).pk for n in range(MODEL_COUNT)]


def report(fleet: Fleet, took_s: float, real_s: float) -> bool:
    """Print what was seen; whether each job was run and booked once."""
    seen, traffic = fleet.seen, fleet.traffic
    settled = seen.calls["finish: settled"]
    print(
        f"{traffic.nodes:,} nodes, {seen.submitted:,} jobs of {len(TENANTS)} tenants within"
        f" {traffic.seconds:.0f} s, all over after {took_s:.0f} s; simulated in {real_s:.0f} s"
        f" ({describe_machine()})\n"
    )
    print("| class | jobs | p50 wait | p95 | p99 |\n|---|---|---|---|---|")
    for kind in (*CLASSES, "lost with its node"):
        some = sorted(seen.waits_s[kind])
        if some:
            cells = [f"{some[len(some) * part // 100]:.2f} s" for part in (50, 95, 99)]
            print(f"| {kind} | {len(some):,} | {' | '.join(cells)} |")
    small = [statistics.mean(v) for k, v in seen.waits_of_s.items() if k.startswith("small-")]
    flood = seen.waits_of_s["flood"]
    busy = 100 * seen.busy_s / traffic.nodes / took_s
    print(f"\nutilisation: {busy:.0f} % of all node seconds")
    print(f"fairness: Jain's index of the mean waits of the small tenants {jain(small):.3f};")
    if flood:
        means = statistics.mean(small), statistics.mean(flood)
        print(f"  they waited {means[0]:.2f} s, the flood {means[1]:.1f} s")
    claims, empty = seen.calls["claim"], seen.calls["empty claim"]
    pool = sorted(seen.pool_waits_s)
    print(f"herds: {claims / settled:.2f} claims a job, {empty / settled:.2f} of them in vain;")
    print(f"  wait for a connection p99 {pool[len(pool) * 99 // 100] * 1e3:.1f} ms")
    print(
        f"nodes died: {seen.calls['died']}, leases reaped {seen.calls['reaped lost']},"
        f" late results {seen.calls['finish: stale']}"
    )
    is_right = settled == seen.submitted
    print(f"booked: {settled:,} of {seen.submitted:,}, {'each once' if is_right else 'WRONG'}")
    return is_right


def jain(values: Sequence[float]) -> float:
    """1 where all have the same, 1/n where one has all."""
    total = sum(values)
    return total * total / (len(values) * sum(one * one for one in values)) if total else 1.0


def write_images(fleet: Fleet) -> None:
    """The curves."""
    curves = fleet.seen.curves
    charts = {
        "fleet-queue": draw(
            "Jobs that wait, by class", "jobs", {one: curves[f"waiting {one}"] for one in CLASSES}
        ),
        "fleet-busy": draw("Nodes that run a job", "%", {"busy": curves["busy"]}, top=100.0),
        "fleet-claims": draw(
            "Claims in a second",
            "1/s",
            {name: _differences(curves[name]) for name in ("claim", "empty claim")},
        ),
    }
    for name, text in charts.items():
        (IMAGES / f"{name}.svg").write_text(text)


def _differences(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [
        (later[0], (later[1] - earlier[1]) / SAMPLE_S)
        for earlier, later in itertools.pairwise(points)
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--small", action="store_true", help="only whether it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
