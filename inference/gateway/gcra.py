"""How fast something may be asked for: the generic cell rate algorithm in whole numbers.

A limit of n a minute is kept as its *debt*: what was taken and has not been paid back by time.
One slot weighs `SLOT`; each microsecond pays n of it back. A caller may have debts up to a
burst, so in any span of time at most `burst + n * minutes` slots are taken. Everything is an
integer below 2**53: `limits.lua` computes the same in Redis, to the last digit.

A request for more slots than a burst has is let in once there is no debt at all, and pays
afterwards: the batch of a client with a small limit is late, but not impossible.

Source: ITU-T I.371, virtual scheduling; the debt is its TAT minus now, times the rate.
"""

from __future__ import annotations

# A minute in microseconds: at n a minute, a slot is paid back after SLOT / n of them.
SLOT = 60_000_000
# Who may call six times a minute may do so at once, and not every ten seconds only.
BURST_MIN = 10
# Six seconds' worth: a page that asks for 60 things at once works with 600 a minute.
BURST_DIVISOR = 10


def burst_of(per_minute: int) -> int:
    """How many slots may be taken at once: a tenth of a minute's, but at least ten, or all."""
    return min(per_minute, max(BURST_MIN, per_minute // BURST_DIVISOR))


def drain(debt: int, elapsed_us: int, per_minute: int) -> int:
    """The debt after some time. A clock that went back pays nothing."""
    return max(0, debt - max(0, elapsed_us) * per_minute)


def has_room(debt: int, count: int, burst: int) -> bool:
    """Whether `count` slots may be taken now."""
    return debt <= max(0, burst - count) * SLOT


def wait_us(debt: int, count: int, burst: int, per_minute: int) -> int:
    """After which time `count` slots may be taken, if nobody else takes any."""
    return max(0, -((max(0, burst - count) * SLOT - debt) // per_minute))


class Pace:
    """A limit that one process keeps for itself.

    Args:
        per_minute: Slots that grow back.
        burst: Slots that may be taken at once.
    """

    __slots__ = ("at_us", "burst", "debt", "per_minute")

    def __init__(self, per_minute: int, burst: int) -> None:
        self.per_minute = per_minute
        self.burst = burst
        self.debt = 0
        self.at_us = 0

    def has_room(self, count: int, now_us: int) -> bool:
        """Whether `take` would be within the limit."""
        self.debt = drain(self.debt, now_us - self.at_us, self.per_minute)
        self.at_us = now_us
        return has_room(self.debt, count, self.burst)

    def take(self, count: int) -> None:
        """Take slots for which `has_room` has just found room."""
        self.debt += count * SLOT

    def wait_us(self, count: int) -> int:
        """How long `has_room` will go on to say no."""
        return wait_us(self.debt, count, self.burst, self.per_minute)

    def count_room(self) -> int:
        """How many slots `has_room` would find."""
        return max(0, self.burst - -(-self.debt // SLOT))

    def reset_us(self) -> int:
        """After which time nothing is owed any more."""
        return -(-self.debt // self.per_minute)
