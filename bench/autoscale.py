"""What autoscaling costs and what it keeps: the gateway's own formulas against traces of load.

    .venv/bin/python -m bench.autoscale [--class g6.xlarge] [--small]

`inference.core.scaling` is run second by second as a cluster would run it: looked at every 15
seconds, nodes that take minutes to come, machines that are taken away. Beside it run fleets of a
fixed size and the usual autoscalers: by CPU, and by the length of the queue. Virtual time, no
GPU, no cluster. Work flows: a slot does one second of it in a second, and jobs begin in the order
in which they came; that a job cannot be divided, and that a node which leaves finishes what it
has, is left out. Prices are of bench/gpu_prices.tsv. Curves are written to docs/images.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.plot import draw
from inference.core import scaling
from inference.core.scaling import Bounds, Load, NodeShape, Waiting, Wish

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
PRICES = ROOT / "bench" / "gpu_prices.tsv"
HOUR_S = 3600
DAY_S = 24 * HOUR_S
# Work that comes is a mean of so long, as the gateway takes it.
ARRIVALS_S = 300


@dataclass(frozen=True, slots=True)
class World:
    """What is the same for all who are compared.

    Attributes:
        job_s: Slot-seconds of a job.
        slot_count: Slots of a node.
        provision_s: From the order of a machine until it runs pods.
        load_s: From there until a node answers.
        look_s: Between two decisions.
        target_wait_s: What the formulas aim at.
        slo_s: Within which a job is to be begun to count as served well.
        node_count_min: Of those that can go to zero; others keep at least one.
        node_count_max: The quota.
        usd_per_hour: Of a machine.
        spot_usd_per_hour: Of one that may be taken away.
    """

    job_s: float = 2.0
    slot_count: int = 4
    provision_s: int = 120
    load_s: int = 60
    look_s: int = 15
    target_wait_s: float = 30.0
    slo_s: float = 60.0
    node_count_min: int = 0
    node_count_max: int = 60
    usd_per_hour: float = 0.8048
    spot_usd_per_hour: float = 0.32

    @property
    def cold_start_s(self) -> int:
        """From the order of a node to its first answer, on a new machine."""
        return self.provision_s + self.load_s

    @property
    def bounds(self) -> Bounds:
        """For the formulas."""
        return Bounds(self.node_count_min, self.node_count_max, float(self.cold_start_s))


@dataclass(frozen=True, slots=True)
class Trace:
    """Load over time.

    Attributes:
        name: Of the trace.
        jobs: How many come in each second.
        reclaims: At which second which share of the spot nodes is taken away.
        without_spot: Seconds, from and until, in which no spot machine is to be had.
    """

    name: str
    jobs: np.ndarray
    reclaims: Mapping[int, float] = field(default_factory=dict)
    without_spot: Sequence[tuple[int, int]] = ()

    @property
    def length_s(self) -> int:
        """How long it is."""
        return len(self.jobs)

    def has_spot(self, now_s: int) -> bool:
        """Whether a spot machine that is ordered now comes."""
        return not any(begin <= now_s < end for begin, end in self.without_spot)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision is made from.

    Attributes:
        now_s: When.
        work_s: Slot-seconds that wait.
        arriving: Slot-seconds that came each second, of late.
        busy: Slots in use, mean of the seconds since the last look.
        ready: Nodes that answer.
        ordered: Nodes that answer or are on their way.
    """

    now_s: int
    work_s: float
    arriving: float
    busy: float
    ready: int
    ordered: int


class Policy(Protocol):
    """Says how many nodes there should be."""

    def choose(self, seen: Seen, world: World) -> int: ...


Want = Callable[[Seen, World], int]


def want_by_wait(seen: Seen, world: World) -> int:
    """As the gateway and the chart do it."""
    load = Load(
        (Waiting(seen.work_s, world.target_wait_s),), arriving=seen.arriving, busy_slots=seen.busy
    )
    return scaling.want_nodes(load, NodeShape(world.slot_count), world.bounds)


# What one node works off within the target if a job takes two seconds: chosen once for the jobs of
# that day, as such numbers are.
JOBS_PER_NODE = 60


def want_by_length(seen: Seen, world: World) -> int:
    """As a scaler of queues does it that counts messages: so many for each node."""
    jobs = seen.work_s / world.job_s + seen.busy
    return scaling.round_nodes(jobs / JOBS_PER_NODE, world.bounds)


# Within so much of what there is an autoscaler of Kubernetes changes nothing, whatever it goes by.
TOLERANCE = 0.1


class Formula:
    """A wish, and the window of `scaling` before nodes are given back."""

    def __init__(self, want: Want = want_by_wait) -> None:
        self.want = want
        self._wishes: tuple[Wish, ...] = ()

    def choose(self, seen: Seen, world: World) -> int:
        """See `Policy`."""
        now_s = float(seen.now_s)
        if not self._wishes:
            self._wishes = scaling.begin_wishes(now_s, seen.ordered)
        wanted = self.want(seen, world)
        if seen.ordered and abs(wanted / seen.ordered - 1) <= TOLERANCE:
            wanted = seen.ordered
        wish = Wish(now_s, wanted)
        self._wishes = scaling.keep_wishes(self._wishes, wish, world.bounds.scale_down_s)
        return scaling.choose_nodes(self._wishes)


class Fixed:
    """So many nodes, always."""

    def __init__(self, node_count: int) -> None:
        self.node_count = node_count

    def choose(self, seen: Seen, world: World) -> int:
        """See `Policy`."""
        return self.node_count


class CPU:
    """A HorizontalPodAutoscaler on the use of the CPU, with its defaults.

    In its favour: the CPU is used exactly as much as the slots are. The use of one that is full
    is 100 %, however much waits. Nodes that are not ready yet count as unused before more are
    ordered, nothing changes within a tenth of the target, and what was highest in five minutes
    holds.

    Source: Kubernetes, "Horizontal Pod Autoscaling", algorithm details and default behavior.
    """

    TARGET, WINDOW_S = 0.7, 300.0

    def __init__(self) -> None:
        self._wishes: tuple[Wish, ...] = ()

    def choose(self, seen: Seen, world: World) -> int:
        """See `Policy`."""
        now_s = float(seen.now_s)
        if not self._wishes:
            self._wishes = scaling.begin_wishes(now_s, seen.ordered)
        wanted = self._want(seen, world)
        # At most twice as many, or four more, in 15 seconds.
        wanted = min(wanted, max(2 * seen.ordered, seen.ordered + 4))
        wish = Wish(now_s, min(max(wanted, 1, world.node_count_min), world.node_count_max))
        self._wishes = scaling.keep_wishes(self._wishes, wish, self.WINDOW_S)
        return scaling.choose_nodes(self._wishes)

    def _want(self, seen: Seen, world: World) -> int:
        if not seen.ready:
            return seen.ordered
        ratio = seen.busy / (seen.ready * world.slot_count) / self.TARGET
        if abs(ratio - 1) <= TOLERANCE:
            return seen.ordered
        if ratio < 1:
            return math.ceil(ratio * seen.ready)
        among_all = ratio * seen.ready / seen.ordered
        return max(seen.ordered, math.ceil(among_all * seen.ordered))


class Fleet:
    """Nodes of one kind: those that answer, and those on their way."""

    def __init__(self, world: World, *, buffer: int = 0, first: int = 0) -> None:
        self.world = world
        self.ready = first
        # When each that was ordered will answer, the earliest first.
        self.coming: deque[int] = deque()
        # Machines that are kept ready for nodes, and when those that were taken are there again.
        self.buffer = buffer
        self.refilled: deque[int] = deque()

    @property
    def ordered(self) -> int:
        """Nodes that answer or are on their way."""
        return self.ready + len(self.coming)

    @property
    def machines(self) -> int:
        """What is paid for."""
        return self.ordered + self.buffer + len(self.refilled)

    def pass_to(self, now_s: int) -> None:
        """Some that were on their way are there."""
        while self.coming and self.coming[0] <= now_s:
            self.coming.popleft()
            self.ready += 1
        while self.refilled and self.refilled[0] <= now_s:
            self.refilled.popleft()
            self.buffer += 1

    def resize(self, wanted: int, now_s: int, *, is_to_be_had: bool = True) -> None:
        """Order nodes, or give some back: first those on their way."""
        while self.ordered > wanted:
            if self.coming:
                self.coming.pop()
            else:
                self.ready -= 1
        while self.ordered < wanted and is_to_be_had:
            is_there = self.buffer > 0
            if is_there:
                self.buffer -= 1
                self.refilled.append(now_s + self.world.provision_s)
            wait_s = self.world.load_s if is_there else self.world.cold_start_s
            self.coming.append(now_s + wait_s)
        if any(one > other for one, other in zip(self.coming, list(self.coming)[1:], strict=False)):
            self.coming = deque(sorted(self.coming))

    def lose(self, share: float) -> None:
        """So many of those that answer are taken away."""
        self.ready -= math.ceil(self.ready * share)


class Nodes:
    """All nodes of a run, of one kind or of two.

    Args:
        world: Where they are.
        buffer: Machines that are kept ready.
        has_spot: Whether nodes are spot ones first.
        makes_up: Whether others make up for spot nodes, as `scaling.split_nodes` says.
        first: Nodes at the beginning.
    """

    PATIENCE_S = 180

    def __init__(
        self,
        world: World,
        *,
        buffer: int = 0,
        has_spot: bool = False,
        makes_up: bool = True,
        first: int = 0,
    ) -> None:
        self.world = world
        self.plain = Fleet(world, buffer=buffer, first=0 if has_spot else first)
        self.spot = Fleet(world, first=first) if has_spot else None
        self.makes_up = makes_up
        looks = self.PATIENCE_S // world.look_s + 1
        self._missing: deque[int] = deque([0] * looks, maxlen=looks)
        self._ready: deque[int] = deque([0] * looks, maxlen=looks)
        self._wishes: tuple[Wish, ...] = ()

    @property
    def ready(self) -> int:
        """Nodes that answer."""
        return self.plain.ready + (self.spot.ready if self.spot else 0)

    @property
    def ordered(self) -> int:
        """Nodes that answer or are on their way."""
        return self.plain.ordered + (self.spot.ordered if self.spot else 0)

    @property
    def usd_per_hour(self) -> float:
        """What is paid now."""
        spot = self.spot.machines * self.world.spot_usd_per_hour if self.spot else 0.0
        return self.plain.machines * self.world.usd_per_hour + spot

    @property
    def machines(self) -> int:
        """What is paid for now."""
        return self.plain.machines + (self.spot.machines if self.spot else 0)

    def pass_to(self, now_s: int, trace: Trace) -> None:
        """A second has passed."""
        self.plain.pass_to(now_s)
        if self.spot is None:
            return
        if not trace.has_spot(now_s):
            # Orders stand, and nothing comes of them.
            self.spot.coming.clear()
        self.spot.pass_to(now_s)
        if now_s in trace.reclaims:
            self.spot.lose(trace.reclaims[now_s])

    def resize(self, wanted: int, now_s: int, trace: Trace) -> None:
        """Order and give back."""
        if self.spot is None:
            self.plain.resize(wanted, now_s)
            return
        self._missing.append(max(0, wanted - self.spot.ready))
        self._ready.append(self.spot.ready)
        split = scaling.split_nodes(wanted, missing=self._missing, ready=self._ready)
        self.spot.resize(split.spot, now_s, is_to_be_had=trace.has_spot(now_s))
        if self.makes_up:
            if not self._wishes:
                self._wishes = scaling.begin_wishes(float(now_s), 0)
            wish = Wish(float(now_s), split.on_demand)
            window_s = self.world.bounds.scale_down_s
            self._wishes = scaling.keep_wishes(self._wishes, wish, window_s)
            self.plain.resize(scaling.choose_nodes(self._wishes), now_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went.

    Attributes:
        policy: Whose.
        slo: Share of all jobs that were begun in time.
        wait_p99_s: So long 99 of 100 waited at most; infinite if they never began.
        node_hours: Of machines that were paid for.
        usd: What they cost.
        changes_per_hour: How often another number of nodes was ordered.
        machines_max: The most at any time.
        nodes: Nodes that answered, second by second.
        waits_s: Of the jobs of each second; not a number where none came.
    """

    policy: str
    slo: float
    wait_p99_s: float
    node_hours: float
    usd: float
    changes_per_hour: float
    machines_max: int
    nodes: np.ndarray
    waits_s: np.ndarray


def run(name: str, policy: Policy, nodes: Nodes, trace: Trace, world: World) -> Outcome:
    """Let a policy order nodes for a trace."""
    length_s = trace.length_s
    work = trace.jobs * world.job_s
    before = np.concatenate([[0.0], np.cumsum(work)])
    served = np.zeros(length_s)
    ready = np.zeros(length_s, dtype=int)
    backlog = busy_s = usd = machine_s = 0.0
    changes = machines_max = 0
    for now_s in range(length_s):
        nodes.pass_to(now_s, trace)
        if now_s % world.look_s == 0:
            begin_s = max(0, now_s - ARRIVALS_S)
            arriving = (before[now_s] - before[begin_s]) / ARRIVALS_S
            seen = Seen(now_s, backlog, arriving, busy_s / world.look_s, nodes.ready, nodes.ordered)
            ordered = nodes.ordered
            nodes.resize(policy.choose(seen, world), now_s, trace)
            changes += now_s > 0 and nodes.ordered != ordered
            busy_s = 0.0
        backlog += work[now_s]
        done = min(backlog, nodes.ready * world.slot_count)
        backlog -= done
        busy_s += done
        served[now_s] = done
        ready[now_s] = nodes.ready
        usd += nodes.usd_per_hour / HOUR_S
        machine_s += nodes.machines
        machines_max = max(machines_max, nodes.machines)
    waits_s = _find_waits(work, served)
    slo, p99_s = _judge(waits_s, trace.jobs, world.slo_s)
    return Outcome(
        name,
        slo,
        p99_s,
        machine_s / HOUR_S,
        usd,
        changes / (length_s / HOUR_S),
        machines_max,
        ready,
        waits_s,
    )


def _find_waits(work: np.ndarray, served: np.ndarray) -> np.ndarray:
    """How long the middle job of each second waited: until all before it had been begun."""
    ahead = np.cumsum(work) - work / 2
    begun_s = np.searchsorted(np.cumsum(served) + 1e-6, ahead).astype(float)
    begun_s[begun_s >= len(work)] = np.inf
    waits_s = begun_s - np.arange(len(work))
    waits_s[work == 0] = np.nan
    return waits_s


def _judge(waits_s: np.ndarray, jobs: np.ndarray, slo_s: float) -> tuple[float, float]:
    """The share in time, and the 99th of 100 waits; each job counts."""
    came = jobs > 0
    order = np.argsort(waits_s[came])
    waits, counts = waits_s[came][order], jobs[came][order]
    slo = counts[waits <= slo_s].sum() / counts.sum()
    place = np.searchsorted(np.cumsum(counts), 0.99 * counts.sum())
    return float(slo), float(waits[min(place, len(waits) - 1)])


def diurnal(*, peak_per_s: float, days: int = 1, seed: int = 1) -> Trace:
    """A day: a tenth of the peak at four in the morning, all of it at eight in the evening."""
    return Trace("day", _draw_jobs(_day(days) * peak_per_s, seed))


def weekend(*, peak_per_s: float, seed: int = 2) -> Trace:
    """Friday to Monday: on Saturday and Sunday a twentieth, and nothing from midnight to seven."""
    rates = _day(4) * peak_per_s
    hour = np.arange(len(rates)) / HOUR_S
    is_off = (hour >= 24) & (hour < 72)
    rates = np.where(is_off, rates * 0.05, rates)
    rates = np.where(is_off & (hour % 24 < 7), 0.0, rates)
    return Trace("weekend", _draw_jobs(rates, seed))


def tv_spot(*, base_per_s: float, seed: int = 3, times: float = 100.0) -> Trace:
    """Three hours: after one a hundred times as much within a minute, for 15, then ever less."""
    now_s = np.arange(3 * HOUR_S)
    since_s = now_s - HOUR_S
    rising = np.clip(since_s / 60, 0, 1)
    falling = np.exp(-np.clip(since_s - 960, 0, None) / 900)
    return Trace("TV spot", _draw_jobs(base_per_s * (1 + (times - 1) * rising * falling), seed))


def spot_day(*, peak_per_s: float, seed: int = 4) -> Trace:
    """A day in which spot machines are taken away twice, once with none to be had for an hour."""
    one = diurnal(peak_per_s=peak_per_s, seed=seed)
    reclaims = {14 * HOUR_S: 0.6, 20 * HOUR_S: 0.3}
    return Trace("spot day", one.jobs, reclaims, [(14 * HOUR_S, 15 * HOUR_S)])


def _day(days: int) -> np.ndarray:
    hour = np.arange(days * DAY_S) / HOUR_S % 24
    # From 4 to 20 it rises, from 20 to 4 it falls.
    phase = np.where(
        (hour >= 4) & (hour < 20), (hour - 4) / 16 * np.pi, np.pi + (hour - 20) % 24 / 8 * np.pi
    )
    return 0.1 + 0.9 * (1 - np.cos(phase)) / 2


def _draw_jobs(rates: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rates)


def size_fleet(per_s: float, world: World) -> int:
    """Nodes that keep up with so many jobs a second and are not full."""
    return max(1, math.ceil(per_s * world.job_s / world.slot_count / scaling.BUSY_MAX))


def peak_per_s(trace: Trace) -> float:
    """The most in any minute."""
    minutes = trace.jobs[: len(trace.jobs) // 60 * 60].reshape(-1, 60)
    return float(minutes.mean(axis=1).max())


BY_WAIT = "by wait (ours)"


def compare(trace: Trace, world: World, *, buffer: int = 0) -> list[Outcome]:
    """All policies on one trace, from the same number of nodes."""
    peak = size_fleet(peak_per_s(trace), world)
    mean = size_fleet(float(trace.jobs.mean()), world)
    first = size_fleet(float(trace.jobs[:ARRIVALS_S].mean()), world)
    contenders: list[tuple[str, Policy, int, int]] = [
        ("fixed, for the peak", Fixed(peak), peak, 0),
        ("fixed, for the mean", Fixed(mean), mean, 0),
        ("HPA on CPU", CPU(), first, 0),
        ("by queue length", Formula(want_by_length), first, 0),
        (BY_WAIT, Formula(), first, 0),
    ]
    if buffer:
        contenders.append((f"{BY_WAIT}, {buffer} kept ready", Formula(), first, buffer))
    return [
        run(name, policy, Nodes(world, first=begin, buffer=kept), trace, world)
        for name, policy, begin, kept in contenders
    ]


def compare_spot(trace: Trace, world: World) -> list[Outcome]:
    """Spot nodes with and without others in their place, and no spot nodes at all."""
    first = size_fleet(float(trace.jobs[:ARRIVALS_S].mean()), world)
    kinds = [
        ("on demand alone", Nodes(world, first=first)),
        ("spot alone", Nodes(world, has_spot=True, makes_up=False, first=first)),
        ("spot, made up for", Nodes(world, has_spot=True, first=first)),
    ]
    return [run(name, Formula(), nodes, trace, world) for name, nodes in kinds]


def report(trace: Trace, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A table; costs are of the first."""
    yield f"| {trace.name} | in time | p99 wait | machine hours | cost | of the first | changes/h |"
    yield "|---|---|---|---|---|---|---|"
    for one in outcomes:
        wait = "never" if math.isinf(one.wait_p99_s) else f"{one.wait_p99_s:,.0f} s"
        yield (
            f"| {one.policy} | {one.slo:.1%} | {wait} | {one.node_hours:,.0f} | ${one.usd:,.2f}"
            f" | {one.usd / outcomes[0].usd:.2f} | {one.changes_per_hour:.1f} |"
        )


def plot(trace: Trace, outcomes: Sequence[Outcome], values: str, title: str, unit: str) -> str:
    """A chart of one array of each outcome, in at most 700 points of which each is the largest."""
    step = max(1, trace.length_s // 700)
    hours = 1 / HOUR_S
    series = {}
    for one in outcomes:
        array = np.nan_to_num(getattr(one, values).astype(float), posinf=trace.length_s)
        array = array[: len(array) // step * step].reshape(-1, step).max(axis=1)
        points = [(at * step * hours, float(top)) for at, top in enumerate(array)]
        series[one.policy] = [*points, (trace.length_s * hours, points[-1][1])]
    return draw(title, unit, series, time_unit="h")


def read_prices() -> dict[str, dict[str, str]]:
    """By class."""
    with PRICES.open(newline="") as file:
        return {row["class"]: row for row in csv.DictReader(file, delimiter="\t")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--class", dest="machine", default="g6.xlarge", choices=read_prices())
    parser.add_argument("--provision", type=int, default=120, help="seconds until a machine is up")
    parser.add_argument("--load", type=int, default=60, help="seconds until its node answers")
    parser.add_argument("--small", action="store_true", help="a tenth of the load, and no curves")
    chosen = parser.parse_args(arguments)
    price = read_prices()[chosen.machine]
    world = World(
        provision_s=chosen.provision,
        load_s=chosen.load,
        usd_per_hour=float(price["usd_per_hour"]),
        spot_usd_per_hour=float(price["spot_usd_per_hour"]),
    )
    scale = 0.1 if chosen.small else 1.0
    traces = [
        (diurnal(peak_per_s=60 * scale), 0),
        (tv_spot(base_per_s=0.5), 4),
        (weekend(peak_per_s=60 * scale), 0),
    ]
    print(f"{chosen.machine}: {price['gpu']}, ${price['usd_per_hour']} an hour")
    print(f"({price['source']}, {price['date']})")
    for trace, buffer in traces:
        outcomes = compare(trace, world, buffer=buffer)
        print("", *report(trace, outcomes), sep="\n")
        if not chosen.small:
            _write(trace, [outcomes[0], *outcomes[2:5]], with_waits=trace.name == "TV spot")
    trace = spot_day(peak_per_s=60 * scale)
    outcomes = compare_spot(trace, world)
    print("", *report(trace, outcomes), sep="\n")
    if not chosen.small:
        _write(trace, outcomes, with_waits=False)
    slow = replace(world, job_s=20.0)
    trace = tv_spot(base_per_s=0.05)
    outcomes = compare(replace(trace, name="TV spot, jobs of 20 s"), slow)
    print("", *report(replace(trace, name="TV spot, jobs of 20 s"), outcomes), sep="\n")


def _write(trace: Trace, outcomes: Sequence[Outcome], *, with_waits: bool) -> None:
    name = trace.name.lower().replace(" ", "-")
    IMAGES.mkdir(parents=True, exist_ok=True)
    text = plot(trace, outcomes, "nodes", f"Nodes that answer: {trace.name}", "nodes")
    (IMAGES / f"autoscale-{name}.svg").write_text(text)
    if with_waits:
        text = plot(trace, outcomes, "waits_s", f"Wait until a job begins: {trace.name}", "s")
        (IMAGES / f"autoscale-{name}-wait.svg").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
