"""Whether a server grows while it is under load: its memory, early and late."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import psutil

# Fewer say nothing of a quarter.
SAMPLES_MIN = 8
_SAMPLES = 400
_INTERVAL_S_MIN = 0.05
_STOP_TIMEOUT_S = 10.0


class MemoryWatch:
    """Resident memory of what listens at a URL's port, with all its descendants, from now on.

    Behind a balancer that is the balancer: then the gateways have to be watched one by one.

    Args:
        url: Of this machine.
        seconds: How long the load lasts; decides how often it is looked.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.sizes_bytes: list[int] = []
        parts = urlsplit(url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._listeners = find_listeners(self._port)
        self._interval_s = max(_INTERVAL_S_MIN, seconds / _SAMPLES)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def watched(self) -> str:
        """Who is watched, for people; empty for nobody."""
        return ", ".join(f"{name} ({one.pid})" for one, name in self._listeners)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def describe_growth(self, ratio_max: float) -> str:
        """What grew, or why that cannot be said; empty for neither."""
        if not self._listeners:
            return ""
        if not self._is_alive():
            return "the server that was watched has ended: its memory says nothing"
        return find_growth(self.sizes_bytes, ratio_max)

    def _look(self) -> None:
        while self._listeners and self._is_alive():
            self.sizes_bytes.append(self._read_bytes())
            if self._is_over.wait(self._interval_s):
                return

    def _is_alive(self) -> bool:
        # Of the same start: another process may have got the number.
        return all(one.is_running() for one, _ in self._listeners)

    def _read_bytes(self) -> int:
        family = {one for one, _ in self._listeners}
        for one, _ in self._listeners:
            with suppress(psutil.Error):
                family |= set(one.children(recursive=True))
        total = 0
        for one in family:
            with suppress(psutil.Error):
                total += one.memory_info().rss
        return total


def find_listeners(port: int) -> list[tuple[psutil.Process, str]]:
    """Processes that listen at a port of this machine, and that we may look at, with names."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(
                one.status == psutil.CONN_LISTEN and one.laddr.port == port
                for one in process.net_connections(kind="tcp")
            ):
                found.append((process, process.name()))
    return found


def find_growth(sizes_bytes: Sequence[int], ratio_max: float) -> str:
    """What the last quarter of a series has more than the first; empty if that is within bounds.

    Medians are compared: a single peak is no leak.

    Args:
        sizes_bytes: At even distances.
        ratio_max: Of the last quarter's median to the first's.
    """
    if len(sizes_bytes) < SAMPLES_MIN:
        return f"memory was read {len(sizes_bytes)} times, {SAMPLES_MIN} at least"
    quarter = len(sizes_bytes) // 4
    first, last = (
        statistics.median(part) for part in (sizes_bytes[:quarter], sizes_bytes[-quarter:])
    )
    if last <= first * ratio_max:
        return ""
    return (
        f"the last quarter's memory is {last / 2**20:.1f} MiB, the first's {first / 2**20:.1f}: "
        f"more than {ratio_max:g} times"
    )
