"""Fetch ciphertext ahead of its use, while this node has nothing better to do.

The platform names versions that the node may be given next; what is fetched of them cannot be
read, since a key is released for a replica alone. One part is fetched at a time, nothing
that was used lately makes room for it, and a load that begins ends it at once: what came
of a part stays, and is gone on with by the load itself, or later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.node.cache import ArtifactCache
from inference.node.control_plane import ControlPlane
from inference.node.errors import CancelledError, RefusedError, ReplicaError, UnreachableError
from inference.node.log import event
from inference.node.store import Stop

logger = logging.getLogger("node.prefetch")

ASK_EVERY_S = 60.0
# More is not believed to be meant.
VERSIONS_MAX = 64
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Likely:
    """A version that this node may be given next."""

    version_id: UUID
    name: str
    size_bytes: int


def parse_likely(document: dict[str, Any]) -> list[Likely]:
    """What the platform's answer names.

    Raises:
        ValueError: It has another form.
    """
    try:
        return [
            Likely(UUID(one["version_id"]), str(one["name"]), int(one["size_bytes"]))
            for one in document["versions"][:VERSIONS_MAX]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"versions to fetch ahead: {type(error).__name__}") from error


class Prefetcher:
    """The thread.

    Args:
        cache: Where it goes.
        control_plane: Says what.
        is_busy: Whether the node has something better to do.
    """

    def __init__(
        self,
        cache: ArtifactCache,
        control_plane: ControlPlane,
        *,
        is_busy: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._control_plane = control_plane
        self._stopped = threading.Event()
        # What was told of in the log already.
        self._troubles: dict[UUID, str] = {}
        self._pause = _Pause(self._stopped, is_busy)
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """End; a part under way stays as a draft."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._look()
            except (UnreachableError, RefusedError, ValueError) as error:
                event(logger, "prefetch.not_told", error=error)
            except Exception:
                # Nothing that serves hangs on it.
                logger.exception("fetching ahead failed")
            self._stopped.wait(ASK_EVERY_S)

    def _look(self) -> None:
        troubles: dict[UUID, str] = {}
        for one in parse_likely(self._control_plane.get_prefetch()):
            trouble = self._bring(one)
            if trouble:
                troubles[one.version_id] = trouble
            if trouble and self._troubles.get(one.version_id) != trouble:
                event(logger, "prefetch.failed", version=one.version_id, reason=trouble)
        self._troubles = troubles

    def _bring(self, one: Likely) -> str:
        """Fetch a version, however often something better comes up; returns why it did not come."""
        while not self._stopped.is_set():
            if self._pause.is_set():
                self._stopped.wait(_LOOK_S)
                continue
            try:
                fetch_ahead(self._cache, one.version_id, self._pause)
            except CancelledError:
                continue
            except ReplicaError as error:
                return error.reason_code
            return ""
        return ""


class _Pause:
    """Set while the node has something better to do, and for good once it stops."""

    def __init__(self, stopped: threading.Event, is_busy: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._is_busy = is_busy

    def is_set(self) -> bool:
        return self._stopped.is_set() or self._is_busy()

    def wait(self, timeout: float) -> bool:
        ends_at = time.monotonic() + timeout
        while not self.is_set() and time.monotonic() < ends_at:
            self._stopped.wait(min(_LOOK_S, timeout))
        return self.is_set()


def fetch_ahead(
    cache: ArtifactCache,
    version_id: UUID,
    stop: Stop,
    on_progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Have a version's ciphertext here, if there is room for it.

    Raises:
        ReplicaError: It does not come, with the reason.
        CancelledError: `stop` was set.
    """
    with cache.hold(version_id, on_progress=on_progress, cancelled=stop, is_ahead=True):
        pass


def choose(likely: Iterable[Likely], wanted: Iterable[str]) -> tuple[list[Likely], list[str]]:
    """Those that were asked for, by name or id, and the words that name none.

    A name without a version means each version of that model.
    """
    likely, words = list(likely), list(wanted)
    if not words:
        return likely, []
    chosen = [one for one in likely if any(_is_named(one, word) for word in words)]
    unknown = [word for word in words if not any(_is_named(one, word) for one in likely)]
    return chosen, unknown


def _is_named(one: Likely, word: str) -> bool:
    return word in (one.name, one.name.rpartition(":")[0], str(one.version_id))
