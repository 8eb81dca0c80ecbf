"""How many nodes a pool should have, from how long its work would wait.

Pure formulas, of which there is one copy: the gateway exports what `want_nodes` gives, the chart
tells the autoscaler to hold a maximum as `keep_wishes` does, and `bench.autoscale` runs all of
them against traces. Work is counted in slot-seconds: one slot of a node does one of them in a
second. So a hundred jobs of ten seconds weigh as much as a thousand of one, which a mere count
would not see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# A queue whose servers are busy all the time grows without end; a fifth stays free.
BUSY_MAX = 0.8
# Below this an autoscaler answers to noise: loads come in bursts of minutes.
SCALE_DOWN_MIN_S = 300.0
# What is left of a sum of floats must not ask for a node.
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work of one class that waits, and how long it may.

    Attributes:
        work_s: Slot-seconds.
        target_wait_s: Within which it is to be begun.
    """

    work_s: float
    target_wait_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool is asked for at one moment.

    Attributes:
        waiting: By class of urgency.
        arriving: Slot-seconds of work that come each second, a mean of the last minutes.
        busy_slots: Slots on which a job runs now.
        pending_requests: Synchronous requests without an answer, waiting or running.
        replicas: Copies that should run of the version that should have the most here, which is
            not asleep. Each is on a node of its own.
    """

    waiting: tuple[Waiting, ...] = ()
    arriving: float = 0.0
    busy_slots: float = 0.0
    pending_requests: float = 0.0
    replicas: float = 0.0

    @property
    def work_s(self) -> float:
        """Slot-seconds that wait, of all classes."""
        return sum(one.work_s for one in self.waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, comes or runs, nor is to be there for what may come."""
        asked = (self.work_s, self.arriving, self.busy_slots, self.pending_requests, self.replicas)
        return max(asked) <= _TINY


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What one node of a pool bears.

    Attributes:
        slot_count: Jobs at once, at least 1.
        slot_requests: Synchronous requests that may be pending for each slot, above 0.
    """

    slot_count: int = 1
    slot_requests: float = 4.0

    def __post_init__(self) -> None:
        if self.slot_count < 1 or self.slot_requests <= 0:
            raise ValueError("a node has at least one slot, and bears requests")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between how many nodes a pool stays, and how slowly it shrinks.

    Attributes:
        node_count_min: 0 for a pool that may sleep.
        node_count_max: What the quota or the budget allows.
        cold_start_s: From the order of a node to its first answer.
        scale_down_min_s: At least so long less must be wanted before nodes are given back.
    """

    node_count_min: int = 0
    node_count_max: int = 10
    cold_start_s: float = 180.0
    scale_down_min_s: float = SCALE_DOWN_MIN_S

    def __post_init__(self) -> None:
        if not 0 <= self.node_count_min <= self.node_count_max:
            raise ValueError("the least number of nodes is not below 0, nor above the most")

    @property
    def scale_down_s(self) -> float:
        """How long less must be wanted: never shorter than it takes to get a node back."""
        return max(self.cold_start_s, self.scale_down_min_s)


def predict_wait_s(
    work_s: float, *, slot_count: int, node_count: int, cold_start_s: float
) -> float:
    """How long a job that comes now waits behind what waits already.

    Without a node it waits for the first one too, which then works alone.

    Args:
        work_s: Slot-seconds that wait.
        slot_count: Of one node.
        node_count: Nodes that answer.
        cold_start_s: What it takes to get one.

    Returns:
        Seconds; 0 for an empty queue that somebody serves.
    """
    first_s = 0.0 if node_count else cold_start_s
    return first_s + work_s / (slot_count * max(1, node_count))


def queue_nodes(load: Load, shape: NodeShape) -> float:
    """Nodes, with fractions, that the queue asks for.

    So many that what waits is begun within its target while what comes meanwhile is done as
    well: with `n` nodes the wait is `(waiting + arriving * target) / (slots * n)`, and this is
    the `n` at which it equals the target. A job that runs keeps its slot, and a version that is
    to be there at any time has its nodes.
    """
    catching_up = sum(one.work_s / one.target_wait_s for one in load.waiting)
    keeping_up = max(load.arriving / BUSY_MAX, load.busy_slots)
    return max((catching_up + keeping_up) / shape.slot_count, load.replicas)


def request_nodes(pending_requests: float, shape: NodeShape) -> float:
    """Nodes, with fractions, that requests ask for whose callers wait for the answer."""
    return pending_requests / (shape.slot_count * shape.slot_requests)


def want_nodes(load: Load, shape: NodeShape, bounds: Bounds) -> int:
    """Nodes that a pool should have for its load, within its bounds.

    Whatever waits, comes or runs wants one node at least; only an idle pool may have none.
    """
    return round_nodes(
        queue_nodes(load, shape) + request_nodes(load.pending_requests, shape), bounds
    )


def round_nodes(nodes: float, bounds: Bounds) -> int:
    """Whole nodes within the bounds: any part of one is one."""
    return min(max(math.ceil(nodes - _TINY), bounds.node_count_min), bounds.node_count_max)


@dataclass(frozen=True, slots=True)
class Wish:
    """How many nodes were wanted, and when.

    Attributes:
        at_s: On any clock that only goes forward.
        nodes: Whole ones.
    """

    at_s: float
    nodes: int


def begin_wishes(now_s: float, node_count: int) -> tuple[Wish, ...]:
    """What is known at the start: the nodes that are there, as if they were wanted now.

    Else whoever starts anew would take all nodes away for want of a past.
    """
    return (Wish(now_s, node_count),)


def keep_wishes(wishes: tuple[Wish, ...], new: Wish, window_s: float) -> tuple[Wish, ...]:
    """The wishes that still count, the largest first.

    Those older than the window do not, nor those that a later one is not below of.
    """
    old_s = new.at_s - window_s
    kept = (one for one in wishes if one.at_s > old_s and one.nodes > new.nodes)
    return (*kept, new)


def choose_nodes(wishes: tuple[Wish, ...]) -> int:
    """How many nodes to have: the most that were wanted within the window.

    More are had at once, fewer only after less was wanted for the whole window. It is what a
    HorizontalPodAutoscaler does with `scaleUp.stabilizationWindowSeconds: 0` and
    `scaleDown.stabilizationWindowSeconds` of the window.
    """
    return wishes[0].nodes


@dataclass(frozen=True, slots=True)
class Split:
    """Nodes to order of each kind."""

    spot: int
    on_demand: int


def split_nodes(
    wanted: int, *, missing: Iterable[int], ready: Iterable[int], on_demand_min: int = 0
) -> Split:
    """Order spot nodes for all, and others for those that do not come or were taken away.

    A spot node that has only just been ordered is waited for; one that was there and is gone is
    not, as the cloud has taken it because it has none to spare. When spot nodes are back, those
    in their place are no longer wanted, and go as slowly as any.

    Args:
        wanted: Nodes in all.
        missing: How many spot nodes were wanted and not ready, at each look within the time
            that they are waited for; the last is now. Fewer looks than the time has say nothing:
            begin with 0.
        ready: How many were ready, at the same looks.
        on_demand_min: Nodes that are never spot.

    Returns:
        Both counts. Together they may be more than `wanted`: the order for spot nodes stands.
    """
    spot = max(0, wanted - on_demand_min)
    missing, ready = list(missing), list(ready)
    if not missing:
        return Split(spot, min(wanted, on_demand_min))
    late = min(missing)
    lost = min(missing[-1], max(ready) - ready[-1])
    made_up = min(spot, max(0, late, lost))
    return Split(spot, min(wanted, on_demand_min) + made_up)


def buffer_nodes(node_count: int, *, share: float, at_least: int, at_most: int) -> int:
    """Machines to keep ready for nodes that will be ordered, so that none waits to be started.

    Args:
        node_count: Nodes that the pool has.
        share: Of them.
        at_least: Even for an empty pool.
        at_most: However large it is.
    """
    return min(max(math.ceil(node_count * share - _TINY), at_least), at_most)
