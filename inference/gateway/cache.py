"""A cache that never keeps what changed while it was being looked up.

Entries live for a short time, and a notice from Postgres drops them at once. A look-up that
was on its way when the notice came may have read the old row: its result is used for the
request that waits for it, and is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from inference.gateway.config import CACHE_ENTRIES_MAX

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, each with an end.

    It keeps nothing until `enable` is called, and nothing after `disable`: while the notices
    are not heard, every look-up goes to the database.
    """

    def __init__(self, ttl_s: float, *, entries_max: int = CACHE_ENTRIES_MAX) -> None:
        self.ttl_s = ttl_s
        self.entries_max = entries_max
        self._entries: dict[K, tuple[float, V]] = {}
        self._generation = 0
        self._is_enabled = False
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def generation(self) -> int:
        """Read it before a look-up begins and hand it to `put`."""
        return self._generation

    def get(self, key: K) -> V | None:
        """The value, if it is kept and still young."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] >= time.monotonic():
            self.hits += 1
            return entry[1]
        self.misses += 1
        if entry is not None:
            del self._entries[key]
        return None

    def put(self, key: K, value: V, *, generation: int, ttl_s: float | None = None) -> None:
        """Keep a value, unless something was dropped since `generation` was read."""
        if not self._is_enabled or generation != self._generation:
            return
        if len(self._entries) >= self.entries_max:
            # Entries are cheap to look up again; an order of use would cost every hit.
            self._entries.clear()
        limit_s = self.ttl_s if ttl_s is None else min(ttl_s, self.ttl_s)
        self._entries[key] = (time.monotonic() + limit_s, value)

    def drop(self, key: K | None) -> None:
        """Forget one value, and what is being looked up now."""
        self._generation += 1
        if key is not None:
            self._entries.pop(key, None)

    def drop_all(self) -> None:
        """Forget everything."""
        self._generation += 1
        self._entries.clear()

    def enable(self) -> None:
        """Begin to keep: changes will be told from now on."""
        self.drop_all()
        self._is_enabled = True

    def disable(self) -> None:
        """Forget everything and keep nothing."""
        self._is_enabled = False
        self.drop_all()
