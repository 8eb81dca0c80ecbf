"""Judges a run behind one address: who may fail when a gateway is killed, and who may not.

A request may fail only if it was in flight on the gateway that died: its life, from its start to
its end, touches the time from just before the signal until the process was gone (ends included),
and the balancer had given it to that gateway, or had moved it on from there. Every other failure
is a fault. So is an answer that is not booked, or one that is booked twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.balancer import Served
from bench.open_loop import Outcome


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was killed.

    Args:
        server: Its name among the gateways at the balancer.
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


def find_caught(
    outcomes: Sequence[Outcome],
    served: Mapping[int, Served],
    deaths: Iterable[Death],
) -> list[int]:
    """Numbers of the requests that were in flight on a gateway that died, failed or not."""
    deaths = list(deaths)
    return [
        number
        for number, one in enumerate(outcomes)
        if any(_excuses(death, one, served.get(number)) for death in deaths)
    ]


def find_book_faults(
    answered: Sequence[Hashable], booked: Sequence[Hashable], undelivered_max: int
) -> list[str]:
    """What does not fit between the answers that came and the bookings.

    Args:
        answered: Ids of the predictions that were answered.
        booked: Ids of the predictions that were charged, once for each charge.
        undelivered_max: How many may be booked without an answer: those that were in flight on a
            gateway when it died, and cannot be asked for again.
    """
    answers, charges = Counter(answered), Counter(booked)
    faults = [
        f"{one} was answered to {count} requests" for one, count in answers.items() if count > 1
    ]
    faults += [f"{one} was charged {count} times" for one, count in charges.items() if count > 1]
    faults += [f"{one} was answered and not charged" for one in answers.keys() - charges.keys()]
    undelivered = len(charges.keys() - answers.keys())
    if undelivered > undelivered_max:
        faults.append(f"{undelivered} were charged and not answered, {undelivered_max} may be")
    return faults


def _excuses(death: Death, outcome: Outcome, served: Served | None) -> bool:
    if served is None or outcome.started_s > death.gone_s or outcome.ended_s < death.before_s:
        return False
    # One that was moved was elsewhere before, which the balancer does not write down.
    return served.server == death.server or served.was_moved
