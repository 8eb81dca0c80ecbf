"""How many copies of a version its load asks for, and how slowly they go again.

Pure formulas, over those of `inference.core.scaling`: a copy bears what one slot of a node does.
A copy more is loaded at once, as it takes a while; one less is had only after less was wanted for
the whole window, or loads that come in bursts would load and unload all the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.core import scaling
from inference.core.scaling import Bounds, Load, NodeShape, Waiting, Wish

WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class VersionLoad:
    """What one version is asked for.

    Attributes:
        requests: Open at once whose callers wait for the answer, a mean of the last minute.
        waiting_s: Slot-seconds of its jobs that wait in the queue.
        busy_count: Jobs of it that run now.
    """

    requests: float = 0.0
    waiting_s: float = 0.0
    busy_count: float = 0.0


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """What a copy bears, and how many there may be.

    Attributes:
        requests: Open at once at one copy.
        wait_s: Within which a job is to be begun.
        count_max: With those that are there anyway.
    """

    requests: float = 4.0
    wait_s: float = 30.0
    count_max: int = 8


def want_copies(load: VersionLoad, *, least: int, nodes: int, limits: CopyLimits) -> int:
    """Copies that a version should have now.

    Args:
        load: What it is asked for.
        least: That run without any load.
        nodes: That could hold one each; two on one node help nobody.
        limits: Of a copy, and of all.
    """
    shape = NodeShape(1, limits.requests)
    queue = Load(waiting=(Waiting(load.waiting_s, limits.wait_s),), busy_slots=load.busy_count)
    wanted = scaling.queue_nodes(queue, shape) + scaling.request_nodes(load.requests, shape)
    most = max(least, min(limits.count_max, nodes))
    return scaling.round_nodes(wanted, Bounds(least, most))


def keep_copies(
    wishes: tuple[Wish, ...], wanted: int, *, now_s: float, have: int
) -> tuple[Wish, ...]:
    """The wishes of the window with a new one; the first says how many copies to have.

    Args:
        wishes: As they were kept the last time; none at the start, or if they were forgotten.
        wanted: Now.
        now_s: On any clock that only goes forward.
        have: Copies that there are to be at present.
    """
    known = wishes or scaling.begin_wishes(now_s, have)
    return scaling.keep_wishes(known, Wish(now_s, wanted), WINDOW_S)
