"""The bound that limits promise, checked over every span of time between two admissions."""

from __future__ import annotations

from collections.abc import Sequence

from inference.gateway.gcra import SLOT, burst_of


def check_windows(taken: Sequence[tuple[int, int]], per_minute: int, *, slack: int = 0) -> None:
    """No span has more than a burst (or one larger request) and what grows back in it.

    Args:
        taken: When, in microseconds, and how many slots; in order.
        per_minute: The limit.
        slack: Slots more than promised that are still fine.
    """
    burst = max([burst_of(per_minute) + slack, *(count for _, count in taken)])
    # Of a span from i to j: what was taken in it, minus what grew back. The i with the largest
    # excess for each j is the one that was best so far.
    total, best = 0, None
    for at_us, count in taken:
        begin = at_us * per_minute - total * SLOT
        best = begin if best is None else max(best, begin)
        total += count
        excess = total * SLOT - at_us * per_minute + best
        assert excess <= burst * SLOT, f"{excess / SLOT} slots at once, {burst} are allowed"
