"""A switch before each replica: one that keeps failing is left alone for a growing time.

Closed, it lets everything through. After a few failures without a success between them it
opens; nothing is sent until its time is over. Then one request may try: its success closes
the switch, its failure opens it for longer. The times differ a little, so that gateways that
saw the same failure do not all come back at once.
"""

from __future__ import annotations

import random
import time

from inference.gateway.config import (
    BREAKER_FAILURES,
    BREAKER_OPEN_MAX_S,
    BREAKER_OPEN_S,
    BREAKER_TRIAL_S,
)

_JITTER = 0.25


class Breaker:
    """Counts the failures of one replica's server in a row."""

    __slots__ = ("_failures", "_open_until_s", "_openings", "_trial_until_s")

    def __init__(self) -> None:
        self._failures = 0
        # How often it opened since the last success.
        self._openings = 0
        self._open_until_s = 0.0
        self._trial_until_s = 0.0

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`, for the metrics."""
        if not self._openings:
            return "closed"
        return "open" if time.monotonic() < self._open_until_s else "half_open"

    def wait_s(self, now_s: float) -> float:
        """For how long nothing may be sent; 0 if something may."""
        if not self._openings:
            return 0.0
        return max(0.0, self._open_until_s - now_s, self._trial_until_s - now_s)

    def take(self, now_s: float) -> None:
        """A request goes; after an open time it is the only one until it has ended."""
        if self._openings:
            self._trial_until_s = now_s + BREAKER_TRIAL_S

    def succeed(self) -> None:
        """The server has answered, with whatever."""
        self._failures = self._openings = 0

    def fail(self, *, is_silent: bool = False) -> None:
        """The server has not answered, or does not have the model.

        Args:
            is_silent: It does not even say that it lives: nothing more is tried there.
        """
        now_s = time.monotonic()
        if self._openings and now_s < self._open_until_s:
            return  # It was on its way together with the one that opened the switch.
        self._failures += 1
        if self._failures < BREAKER_FAILURES and not self._openings and not is_silent:
            return
        open_s = min(BREAKER_OPEN_S * 2**self._openings, BREAKER_OPEN_MAX_S)
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        self._openings += 1
        self._open_until_s = now_s + open_s * spread
        self._trial_until_s = 0.0
