"""Whether the limits of a key held in sum, by what its clients were answered and when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.chaos.journal import Attempt

# After so long all is shared as before: gateways without Redis look for it each second, and
# Redis believes for five that a gateway lives of which it hears nothing.
SETTLED_S = 6.0


@dataclass(frozen=True)
class Disturbance:
    """A time in which Redis was away or forgot, or a gateway that had not asked it yet began.

    Args:
        began_at: Seconds since 1970.
        ended_at: When everything was back.
        bursts: How many it may have added: one for each change from shared to local, for each
            flush, and for what a fresh gateway took without Redis.
    """

    began_at: float
    ended_at: float
    bursts: int


def check_rate(
    attempts: Sequence[Attempt],
    *,
    per_minute: int,
    burst: int,
    disturbances: Sequence[Disturbance] = (),
) -> list[str]:
    """In each span the burst and the limit were granted at most.

    What was sent and answered within a span was granted within it, or in the second before it
    out of slots that were leased, which are part of the burst.
    """
    answered = sorted((one for one in attempts if one.is_answered), key=lambda one: one.ended_at)
    begun = _Sums((one.began_at, one.bursts) for one in disturbances)
    over = _Sums((one.ended_at, one.bursts) for one in disturbances)
    worst, worst_excess = "", 0.0
    for begin in sorted({one.sent_at for one in answered}):
        over_before = over.until(begin - SETTLED_S)
        within = (one for one in answered if one.sent_at >= begin)
        for count, one in enumerate(within, 1):
            bursts = 1 + begun.until(one.ended_at) - over_before
            span_s = one.ended_at - begin
            bound = burst * bursts + per_minute * span_s / 60
            if count - bound > worst_excess:
                worst_excess = count - bound
                worst = f"rate: {count} in {span_s:.2f} s, and {bound:.1f} may be"
    return [worst] if worst else []


class _Sums:
    """What has come up to a moment."""

    def __init__(self, parts: Iterable[tuple[float, int]]) -> None:
        parts = sorted(parts)
        self._times = [at for at, _ in parts]
        self._sums = [0, *accumulate(count for _, count in parts)]

    def until(self, at: float) -> int:
        return self._sums[bisect_right(self._times, at)]


def check_cap(
    attempts: Sequence[Attempt],
    *,
    cap: int,
    gateways: int,
    disturbances: Sequence[Disturbance] = (),
) -> list[str]:
    """Never more ran at the same time than the cap; near a disturbance, at each gateway.

    What the model worked on had its place from before that until after it.
    """
    runs = sorted((one.began_at, one.completed_at) for one in attempts if one.completed_at)
    faults = []
    for began_at, _ in runs:
        count = sum(one <= began_at < other for one, other in runs)
        is_disturbed = any(
            one.began_at <= began_at <= one.ended_at + SETTLED_S for one in disturbances
        )
        most = cap * gateways if is_disturbed else cap
        if count > most:
            faults.append(f"cap: {count} ran at the same time, and {most} may")
    return faults[:1]
