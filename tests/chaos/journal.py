"""What clients sent and what they were answered, on disk before they go on.

This is the oracle of the tests here: it is written by the clients alone and shares no code
with the product. Each line is flushed to the disk; what is not in it did not happen.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_DIGITS = "0123456789abcdefghijklmnopqrstuv"


@dataclass(frozen=True)
class Attempt:
    """One try of one request.

    Args:
        request: The same for all tries of a request.
        key: Its idempotency key, if it has one.
        sent_at: When it was begun; seconds since 1970.
        ended_at: When it was answered, or its connection died.
        status: None if nothing was answered.
        id: Of the prediction, as the answer names it.
        code: Of the error.
        cost_nanos: What the answer says it cost.
        is_right: Whether the model's output was the one for this input.
        expects: Codes of the errors that this request asks for.
        began_at: When its model began, as the answer says; 0 if it does not.
        completed_at: When it was through.
    """

    request: str
    key: str | None
    sent_at: float
    ended_at: float
    status: int | None = None
    id: UUID | None = None
    code: str = ""
    cost_nanos: int | None = None
    is_right: bool = False
    expects: tuple[str, ...] = ()
    began_at: float = 0.0
    completed_at: float = 0.0

    @property
    def is_answered(self) -> bool:
        """Whether a prediction was handed over."""
        return self.status in (200, 201)


class Journal:
    """A file of lines that only grows; one for each client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    def write(self, **line: Any) -> None:
        """Append a line; it is on disk when this returns."""
        with self._lock:
            os.write(self._descriptor, json.dumps(line).encode() + b"\n")
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read(path: Path) -> Iterator[Attempt]:
    """The attempts of a journal, in the order in which they were begun."""
    begun: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        (ended if "ended_at" in line else begun)[line["attempt"]] = line
    for attempt, line in begun.items():
        end = ended[attempt]
        yield Attempt(
            request=line["request"],
            key=line["key"],
            sent_at=line["sent_at"],
            ended_at=end["ended_at"],
            status=end.get("status"),
            id=parse_id(end["id"]) if end.get("id") else None,
            code=end.get("code", ""),
            cost_nanos=end.get("cost_nanos"),
            is_right=end.get("is_right", False),
            expects=tuple(line.get("expects", ())),
            began_at=end.get("began_at", 0.0),
            completed_at=end.get("completed_at", 0.0),
        )


def parse_id(text: str) -> UUID:
    """The 128 bits behind the 26 letters of a prediction's public id."""
    return UUID(int=int(text.translate(str.maketrans(_LETTERS, _DIGITS)), 32))
