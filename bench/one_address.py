"""Judges a run behind one address: who may fail when a gateway is killed, and who may not.

A request may fail only if it was in flight on the gateway that died: its life, from its start to
its end, touches the time from just before the signal until the process was gone (ends included),
and the balancer had given it to that gateway, or had sent it again after that. Every other failure
is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.balancer import Served
from bench.open_loop import Outcome


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was killed.

    Args:
        server: Its name at the balancer; a name that the balancer does not know excuses nobody.
        before_s: Just before the signal, in seconds after the first moment of the run.
        gone_s: When it was reaped and its port was shut.
    """

    server: str
    before_s: float
    gone_s: float


def find_faults(
    outcomes: Sequence[Outcome],
    served: Mapping[int, Served],
    deaths: Iterable[Death],
) -> list[str]:
    """One line for each request that failed and was in flight on no gateway that died.

    Args:
        outcomes: By number.
        served: What the balancer noted, by number; a request may be missing.
        deaths: All of the run.
    """
    deaths = list(deaths)
    return [
        f"request {number}, {one.started_s:.3f} to {one.ended_s:.3f} s: {one.error},"
        f" {served.get(number, 'not seen by the balancer')}"
        for number, one in enumerate(outcomes)
        if one.error and not any(_excuses(death, one, served.get(number)) for death in deaths)
    ]


def _excuses(death: Death, outcome: Outcome, served: Served | None) -> bool:
    if served is None or outcome.started_s > death.gone_s or outcome.ended_s < death.before_s:
        return False
    return served.server == death.server or served.was_retried
