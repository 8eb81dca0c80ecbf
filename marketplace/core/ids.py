"""Identifiers: UUIDv7 inside, 26 lowercase base32 letters on the wire of predictions.

Version 7 begins with the time, so that rows of one hour lie together in an index.

Source: RFC 9562 section 5.7.
"""

from __future__ import annotations

import os
import uuid
from datetime import datetime

from marketplace.core.clock import now_ms

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
PUBLIC_LENGTH = 26  # ceil(128 / 5)
# Two letters at a time: every answer carries an id.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_PAIR_SHIFTS = tuple(range(120, -1, -10))


def new_id() -> uuid.UUID:
    """A fresh, time-ordered identifier."""
    time_ms = now_ms()
    random = int.from_bytes(os.urandom(10), "big")
    value = (time_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    return uuid.UUID(int=value | 0b10 << 62 | random & (1 << 62) - 1)


def lowest_id(moment: datetime) -> uuid.UUID:
    """The first identifier of a moment: all that were made before it are lower."""
    time_ms = int(moment.timestamp() * 1_000)
    return uuid.UUID(int=time_ms << 80 | 0x7 << 76 | 0b10 << 62)


def to_public(identifier: uuid.UUID) -> str:
    """The 26 letters under which a prediction is known outside."""
    value = identifier.int
    return "".join([_PAIRS[value >> shift & 1023] for shift in _PAIR_SHIFTS])


def from_public(text: str) -> uuid.UUID:
    """The identifier of 26 letters.

    Raises:
        ValueError: The text is no such identifier.
    """
    if len(text) != PUBLIC_LENGTH:
        raise ValueError("an id has 26 letters")
    value = 0
    for letter in text:
        value = value << 5 | _ALPHABET.index(letter)
    if value >> 128:
        raise ValueError("an id has 128 bits")
    return uuid.UUID(int=value)
