"""Hear that this process is to end, while requests still run.

The server underneath waits for all of them before it lets the application end. What would last for
minutes because its client waits for news has to be ended by us.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any


class Closing:
    """Whether the process has been told to end."""

    def __init__(self) -> None:
        self.has_begun = False

    def hear(self) -> None:
        """From now on, note it; whoever heard of it before still does.

        The loop is told of a signal by the descriptor that it reads, whatever handler Python has.
        """
        with suppress(ValueError):  # Only the main thread hears signals.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._chain(number)

    def _chain(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)

        def note(given: int, frame: Any) -> None:
            self.has_begun = True
            if callable(before):
                before(given, frame)

        signal.signal(number, note)
