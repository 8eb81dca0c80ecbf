"""How many requests a second Stripe takes from a key; off until it is switched on.

A bucket for each key holds what a second allows, and fills again as time passes: real time,
not the stand-in's own, which tests shift by months. Meter events are counted apart at Stripe,
far above, and are not limited here.

Source: docs.stripe.com, "Rate limits" (100 a second live, 25 in a sandbox).
"""

from __future__ import annotations

import time

PER_S_MAX = 10_000
NS_PER_S = 1_000_000_000
UNLIMITED_PATHS = ("/v1/billing/meter_events",)


class Limiter:
    """Counts the requests of each key."""

    def __init__(self, per_s: int = 0) -> None:
        self.per_s = per_s
        # By key: what is left, in billionths of a request, and as of when.
        self._buckets: dict[str, tuple[int, int]] = {}

    def set_rate(self, per_s: int) -> None:
        """Allow so many a second from now on; 0 is without a limit."""
        self.per_s = per_s
        self._buckets.clear()

    def allows(self, key: str, path: str, now_ns: int | None = None) -> bool:
        """Whether one more request may pass; it counts if so."""
        if not self.per_s or path in UNLIMITED_PATHS:
            return True
        now = time.monotonic_ns() if now_ns is None else now_ns
        full = self.per_s * NS_PER_S
        left, then = self._buckets.get(key, (full, now))
        left = min(full, left + (now - then) * self.per_s)
        is_allowed = left >= NS_PER_S
        self._buckets[key] = (left - NS_PER_S if is_allowed else left, now)
        return is_allowed
