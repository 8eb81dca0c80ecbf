"""Hear that this process is to end, while requests still run.

First comes the drain (`inference.gateway.server`): nothing new should be sent here, and whatever
comes is answered all the same. Then the server underneath waits for all requests before it lets
the application end. What would last for minutes because its client waits for news has to be
ended by us.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

from marketplace.core.env import env_int

DRAIN_SETTING = "STRONGROOM_GATEWAY_DRAIN_S"
# Longer than balancers need to look twice.
DRAIN_S = 5
DRAIN_S_MAX = 300


def read_drain_s() -> int:
    """For how many seconds a gateway goes on after it said that it will stop.

    Raises:
        SettingError: It is no number from 0 to `DRAIN_S_MAX`.
    """
    return env_int(DRAIN_SETTING, DRAIN_S, maximum=DRAIN_S_MAX)


class Closing:
    """Whether the process has been told to end."""

    def __init__(self) -> None:
        self.is_draining = False
        self.has_begun = False

    def hear(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, note it; whoever heard of it before still does.

        The loop is told of a signal by the descriptor that it reads, whatever handler Python has.
        """
        loop.add_signal_handler(signal.SIGUSR1, self._drain)
        with suppress(ValueError):  # Only the main thread hears signals.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._chain(number)

    def _drain(self) -> None:
        self.is_draining = True

    def _chain(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)

        def note(given: int, frame: Any) -> None:
            self.is_draining = self.has_begun = True
            if callable(before):
                before(given, frame)

        signal.signal(number, note)
