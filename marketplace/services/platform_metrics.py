"""Numbers of the platform as a whole, for whoever watches it: queues, money, nodes, checks.

The marketplace knows its own. Packages above it register theirs here while the site starts. A part
that cannot be read is missing from the page and said to be so, and never shown as it was before:
alerts must not look at a past that seems to be fine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction

from marketplace.core.clock import utc_now
from marketplace.core.exposition import Family, Page
from marketplace.core.logs import describe_error

logger = logging.getLogger(__name__)

PREFIX = "strongroom_platform_"
# Numbers are read at most that often, however many ask.
KEPT_S = 10.0
# For each statement. A page that comes late says nothing at all: Prometheus waits for 10 s.
STATEMENT_TIMEOUT_MS = 1500

# Values by name and label values.
Samples = Iterator[tuple[str, float, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers that are read together, and fail together.

    Args:
        name: Of one word.
        families: What is read; names without `strongroom_platform_`.
        read: Gives name (without it), value and labels of each.
        uses_database: Whether it is read in a transaction of its own.
    """

    name: str
    families: tuple[Family, ...]
    read: Callable[[], Samples]
    uses_database: bool = True


_UP = Family(f"{PREFIX}part_up", "gauge", "1 where these numbers could be read.", ("part",))
_SECONDS = Family(f"{PREFIX}read_seconds", "gauge", "How long reading them took.", ("part",))
_parts: dict[str, Part] = {}


def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    """A number of the platform."""
    return Family(f"{PREFIX}{name}", "gauge", text, labels)


def age_s(moment: datetime | None) -> float:
    """How long ago something was; 0 for nothing, so that an alert sees a number."""
    return 0.0 if moment is None else (utc_now() - moment).total_seconds()


def register_part(part: Part) -> None:
    """Read these from now on; called while the site starts."""
    _parts[part.name] = part


class PlatformWatch:
    """Reads all parts when it is asked, and keeps what it read for a moment."""

    def __init__(self) -> None:
        self._parts = dict(_parts)
        self._lock = threading.Lock()
        self._read_at_s = float("-inf")
        self._samples: list[tuple[str, float, Mapping[str, str]]] = []

    @property
    def families(self) -> list[Family]:
        """Everything that may be on the page."""
        return [_UP, _SECONDS, *(one for part in self._parts.values() for one in part.families)]

    def write(self, page: Page) -> None:
        """Add the numbers to a page."""
        with self._lock:
            if time.monotonic() - self._read_at_s >= KEPT_S:
                self._samples = list(self._read_all())
                self._read_at_s = time.monotonic()
            samples = self._samples
        for name, value, labels in samples:
            page.add(f"{PREFIX}{name}", value, labels)

    def _read_all(self) -> Samples:
        for part in self._parts.values():
            began_s = time.monotonic()
            try:
                samples = _read(part)
            except Exception as error:  # noqa: BLE001 - one part must not hide the others
                logger.warning("platform metrics: %s: %s", part.name, describe_error(error))
                samples = []
                is_up = False
            else:
                is_up = True
            yield "part_up", int(is_up), {"part": part.name}
            yield "read_seconds", time.monotonic() - began_s, {"part": part.name}
            yield from samples
        # Each scrape has a thread of its own, and would leave its connection behind.
        connection.close()


def _read(part: Part) -> list[tuple[str, float, Mapping[str, str]]]:
    if not part.uses_database:
        return list(part.read())
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
        return list(part.read())
