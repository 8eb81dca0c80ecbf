"""What an invariant of the ledger is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that is always true, and the query whose every row says it is not."""

    name: str
    sentence: str
    sql: str
