"""Count different things in a few kilobytes: HyperLogLog.

Each thing is a hash of 64 bits. Some bits choose a register, and the register keeps the longest
run of zeros that the others began with; so the same thing never counts twice, and two sketches
become that of their union by the larger of each pair of registers.

What is counted here is added to the estimate as it comes, by the chance that it had to change
a register (the historic inverse probability), which is nearly exact for small numbers. After a
merge only the registers know.

Source: Flajolet et al., "HyperLogLog", AofA 2007; Ting, "Streamed approximate counting of distinct
elements", KDD 2014; Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_INDEX_BITS = 14
# A standard error of 0.8 % for a merged estimate, and of 0.65 % for one's own.
REGISTERS = 1 << _INDEX_BITS
_INDEX_MASK = REGISTERS - 1
_RANK_BITS = 64 - _INDEX_BITS
_RANK_MAX = _RANK_BITS + 1
# What a register of each value adds to the sum that estimates are made of.
_SHARES = [2.0**-rank for rank in range(_RANK_MAX + 1)]
_SCALE = REGISTERS * REGISTERS / (2 * math.log(2))

# A register, and what the thing wants it to be at least.
Place = tuple[int, int]


def find_place(hashed: int) -> Place:
    """Where a hash of 64 bits counts."""
    return hashed & _INDEX_MASK, _RANK_MAX - (hashed >> _INDEX_BITS).bit_length()


class Sketch:
    """How many different things were added, about."""

    __slots__ = ("_sum", "estimate", "registers")

    def __init__(self) -> None:
        self.registers = bytearray(REGISTERS)
        self.estimate = 0.0
        self._sum = float(REGISTERS)

    def measure(self, places: Sequence[Place]) -> float:
        """What the estimate would become; nothing is added."""
        if len(places) == 1:
            index, rank = places[0]
            if rank <= self.registers[index]:
                return self.estimate
            return self.estimate + REGISTERS / self._sum
        estimate, total = self.estimate, self._sum
        changed: dict[int, int] = {}
        for index, rank in places:
            before = changed.get(index) or self.registers[index]
            if rank > before:
                estimate += REGISTERS / total
                total += _SHARES[rank] - _SHARES[before]
                changed[index] = rank
        return estimate

    def add(self, places: Sequence[Place]) -> bool:
        """Count things; whether any of them was new to the registers."""
        registers = self.registers
        is_changed = False
        for index, rank in places:
            before = registers[index]
            if rank > before:
                self.estimate += REGISTERS / self._sum
                self._sum += _SHARES[rank] - _SHARES[before]
                registers[index] = rank
                is_changed = True
        return is_changed

    def merge(self, others: bytes, estimate: float) -> None:
        """Become the sketch of both.

        Args:
            others: Registers of another sketch; empty for one to which nothing was added.
            estimate: What the other was estimated as.
        """
        if not others:
            return
        own = np.frombuffer(self.registers, dtype=np.uint8)
        theirs = np.frombuffer(others, dtype=np.uint8)
        merged = np.maximum(own, theirs)
        if np.array_equal(merged, theirs) and not np.array_equal(merged, own):
            # Everything of ours is in theirs, and they counted it one by one.
            found = estimate
        elif np.array_equal(merged, own):
            return
        else:
            found = _estimate(merged)
        self.registers[:] = merged.tobytes()
        self._sum = float(np.take(_SHARES, merged).sum())
        self.estimate = found


def is_registers(octets: bytes) -> bool:
    """Whether these can be registers of a sketch."""
    return not octets or (len(octets) == REGISTERS and max(octets) <= _RANK_MAX)


def _estimate(registers: np.ndarray) -> float:
    counts = np.bincount(registers, minlength=_RANK_MAX + 1).tolist()
    total = REGISTERS * _tau(1 - counts[_RANK_MAX] / REGISTERS)
    for rank in range(_RANK_BITS, 0, -1):
        total = (total + counts[rank]) / 2
    total += REGISTERS * _sigma(counts[0] / REGISTERS)
    return _SCALE / total


def _sigma(share: float) -> float:
    """Corrects for registers that nothing has chosen yet."""
    if share == 1:
        return math.inf
    total, weight, before = share, 1.0, -1.0
    while total != before:
        before = total
        share *= share
        total += share * weight
        weight *= 2
    return total


def _tau(share: float) -> float:
    """Corrects for registers that can grow no more."""
    if share in (0, 1):
        return 0.0
    total, weight, before = 1 - share, 1.0, -1.0
    while total != before:
        before = total
        share = math.sqrt(share)
        weight /= 2
        total -= (1 - share) ** 2 * weight
    return total / 3
