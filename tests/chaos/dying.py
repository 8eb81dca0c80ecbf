"""Gateways that kill themselves at a named point, the n-th time that they come by.

Run as `granian tests.chaos.dying:app` with `STRONGROOM_TEST_DIES_AT=point:n`. The points are
the moments around which money changes hands; what is done at each is SIGKILL, so nothing of
the process gets to say another word.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from inference.gateway.app import Application, Gateway
from inference.gateway.delivery import Delivery
from tests.gateway import broken

VARIABLE = "STRONGROOM_TEST_DIES_AT"


class Trap:
    """Kills this process when it is sprung for the n-th time."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def spring(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def spring_soon(self, after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self.spring)


def _before(owner: Any, name: str, trap: Trap) -> None:
    inner = getattr(owner, name)

    async def dying(*args: Any, **how: Any) -> Any:
        trap.spring()
        return await inner(*args, **how)

    setattr(owner, name, dying)


def _after(owner: Any, name: str, trap: Trap) -> None:
    inner = getattr(owner, name)

    async def dying(*args: Any, **how: Any) -> Any:
        result = await inner(*args, **how)
        trap.spring()
        return result

    setattr(owner, name, dying)


def _during(owner: Any, name: str, trap: Trap, after_s: float) -> None:
    inner = getattr(owner, name)

    async def dying(*args: Any, **how: Any) -> Any:
        trap.spring_soon(after_s)
        return await inner(*args, **how)

    setattr(owner, name, dying)


def _in_mid_stream(_: Gateway, trap: Trap) -> None:
    take = Delivery.take

    async def dying(self: Delivery, part: Any) -> None:
        await take(self, part)
        trap.spring()

    Delivery.take = dying  # type: ignore[method-assign]


# Where a gateway can die, in the order in which a prediction passes them.
POINTS: dict[str, Callable[[Gateway, Trap], None]] = {
    "before the hold": lambda g, trap: _before(g.holds, "take", trap),
    "after the hold": lambda g, trap: _after(g.predictor, "_hold", trap),
    "while the model runs": lambda g, trap: _during(g.pool, "infer", trap, 0.02),
    "before the booking": lambda g, trap: _before(g.meter, "settle", trap),
    "before the batch": lambda g, trap: _before(g.meter, "_send_settle", trap),
    "during the commit": lambda g, trap: _during(g.meter, "_send_settle", trap, 0.0004),
    "after the commit": lambda g, trap: _after(g.meter, "_send_settle", trap),
    "before the answer": lambda g, trap: _after(g.meter, "settle", trap),
    "in mid-stream": _in_mid_stream,
}


class DyingApplication(Application):
    """The real application, or a broken one, with a trap at one point."""

    def __init__(self, damage: Callable[[Gateway], None] = lambda _: None) -> None:
        super().__init__()
        self.damage = damage

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__rsgi_init__(loop)
        point, _, nth = os.environ[VARIABLE].rpartition(":")
        self.damage(self.gateway)
        POINTS[point](self.gateway, Trap(int(nth)))


app = DyingApplication()
# What a gateway must not do, for the checks to find.
answers_before_commit = DyingApplication(broken._answer_before_commit)
forgets_keys = DyingApplication(broken._forget_keys)
