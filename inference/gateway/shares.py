"""This process' share of limits that all gateways keep together.

A `Rate` has slots, leased from Redis in slices that are good for `LEASE_S`. A `Gate` has
places: those of requests that run, and a few that lie ready where the cap is large. Nothing
here waits; `inference.gateway.limits_store` talks to Redis.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from inference.gateway.gcra import SLOT, Pace, burst_of, drain, has_room, wait_us

# A slot that was leased is used within this time or lost.
LEASE_S = 1.0
# From this on slots are leased ahead: ten a second. What is slower asks for each slot.
LEASED_PER_MINUTE_MIN = 600
# A slice is at most a tenth of a second's worth, so that little of it can be lost.
SLICES_PER_MINUTE = 600
# From this cap on a gateway keeps places that were given back for the next request, at most
# a sixteenth of the cap. Of a smaller one each place is asked for and given back.
KEPT_CAP_MIN = 64
KEPT_DIVISOR = 16
# Who was told that a cap is reached is told the same for so long without asking again.
FULL_S = 0.02


class Rate:
    """So much a minute of requests or units.

    Args:
        policy: Its name on the wire.
        key: Its key in Redis.
        per_minute: The limit.
    """

    __slots__ = (
        "_grants",
        "burst",
        "debt",
        "is_hot",
        "is_refilling",
        "key",
        "leased_burst",
        "own",
        "per_minute",
        "policy",
        "seen_s",
        "slice_size",
        "slots",
        "used_s",
    )

    def __init__(self, policy: str, key: str, per_minute: int) -> None:
        self.policy = policy
        self.key = key
        self.slots = 0
        # Of [slots, when they are lost], the oldest first.
        self._grants: deque[list[float]] = deque()
        # How many slots are asked for ahead; grows while they are used up, and shrinks again.
        self.slice_size = 0
        self.is_refilling = False
        # Whether the last two requests came within the life of a slice.
        self.is_hot = False
        # What Redis said last, and when.
        self.debt = 0
        self.seen_s = 0.0
        self.used_s = 0.0
        self.set_limit(per_minute)

    def set_limit(self, per_minute: int) -> None:
        """The limit was changed; what was taken under the old one stays taken."""
        self.per_minute = per_minute
        self.burst = burst_of(per_minute)
        # Slots of the last `LEASE_S` may all be used now: they are part of the burst.
        ahead = ceil(per_minute * LEASE_S / 60) if self.is_leased else 0
        self.leased_burst = self.burst - ahead
        self.own = Pace(per_minute, self.burst)

    @property
    def is_leased(self) -> bool:
        """Whether slots are leased ahead of need."""
        return self.per_minute >= LEASED_PER_MINUTE_MIN

    def take(self, count: int, now_s: float) -> float:
        """Take leased slots.

        Returns:
            Until when they could be put back; 0 where there are too few.
        """
        grants = self._grants
        while grants and grants[0][1] <= now_s:
            self.slots -= int(grants.popleft()[0])
            # Asked for in vain.
            self.slice_size //= 2
        self.is_hot = now_s - self.used_s < LEASE_S
        self.used_s = now_s
        if self.slots < count:
            return 0.0
        self.slots -= count
        until_s = 0.0
        while count:
            first = grants[0]
            until_s = until_s or first[1]
            if first[0] > count:
                first[0] -= count
                break
            count -= int(first[0])
            grants.popleft()
        return until_s

    def put_back(self, count: int, until_s: float) -> None:
        """Return what `take` took, for a request that was refused elsewhere."""
        self.slots += count
        self._grants.appendleft([count, until_s])

    def add(self, count: int, until_s: float) -> None:
        """Slots that Redis granted ahead of need."""
        if count > 0:
            self.slots += count
            self._grants.append([count, until_s])

    def grow_slice(self, gateways: int) -> int:
        """How many slots to ask for ahead now; twice as many next time."""
        if not self.is_leased or not self.is_hot:
            return 0
        most = max(1, self.per_minute // SLICES_PER_MINUTE // gateways)
        size = min(self.slice_size or 1, most)
        self.slice_size = min(2 * size, most)
        return size

    def needs_refill(self) -> bool:
        """Whether half of the last slice is used up."""
        return self.slots <= self.slice_size // 2 and self.slice_size > 0 and not self.is_refilling

    def note(self, debt: int, now_s: float) -> None:
        """What Redis knows of it."""
        self.debt = debt
        self.seen_s = now_s

    def wait_us(self, count: int, now_s: float) -> int:
        """How long Redis would refuse so many slots, as far as is known here."""
        return wait_us(self._guess_debt(now_s), count, self.leased_burst, self.per_minute)

    def is_spent(self, count: int, now_s: float) -> bool:
        """Whether it is known without asking that so many slots are not there."""
        return not has_room(self._guess_debt(now_s), count, self.leased_burst)

    def remaining(self, now_s: float) -> int:
        """Slots that could be taken now, as far as is known here."""
        return self.slots + max(0, self.leased_burst - ceil(self._guess_debt(now_s) / SLOT))

    def reset_us(self, now_s: float) -> int:
        """After which time nothing is owed any more."""
        return -(-self._guess_debt(now_s) // self.per_minute)

    def _guess_debt(self, now_s: float) -> int:
        return drain(self.debt, int((now_s - self.seen_s) * 1e6), self.per_minute)


class Gate:
    """So many requests at the same time.

    Args:
        policy: Its name on the wire.
        key: Its key in Redis.
        cap: The limit.
    """

    __slots__ = ("cap", "full_s", "idle", "kept", "key", "others", "policy", "used", "used_s")

    def __init__(self, policy: str, key: str, cap: int) -> None:
        self.policy = policy
        self.key = key
        # Places of requests that run here, and places leased for those that come.
        self.used = 0
        self.idle = 0
        # Places at other gateways, as Redis said last.
        self.others = 0
        # Until when it is taken for full.
        self.full_s = 0.0
        self.used_s = 0.0
        self.set_limit(cap)

    def set_limit(self, cap: int) -> None:
        """The cap was changed; what runs, runs."""
        self.cap = cap
        self.kept = cap // KEPT_DIVISOR if cap >= KEPT_CAP_MIN else 0

    def take(self, now_s: float) -> bool:
        """Take a leased place, if one lies ready."""
        self.used_s = now_s
        if self.idle < 1 or self.used >= self.cap:
            return False
        self.idle -= 1
        self.used += 1
        return True

    def release(self) -> bool:
        """The request has ended. Returns whether Redis should hear of it."""
        self.used -= 1
        self.idle += 1
        return self.idle > self.kept

    def is_full(self, now_s: float) -> bool:
        """Whether it is known without asking that there is no place."""
        return self.used >= self.cap or now_s < self.full_s

    def remaining(self) -> int:
        """Places that are free, as far as is known here."""
        return max(0, self.cap - self.used - self.others)
