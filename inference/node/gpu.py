"""What a node tells of its GPUs, as its Triton sees them."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from inference.triton.metrics import read_gpus

# Triton itself looks at them every two seconds; the charts have a point a minute.
INTERVAL_S = 20.0
# The report waits for this: a server that is slow must not make its node look lost.
TIMEOUT_S = 0.5


class GPUWatch:
    """Remembers for a while what the server said; called by one thread."""

    def __init__(self, metrics_url: str) -> None:
        self.metrics_url = metrics_url
        self._found: list[dict[str, int]] = []
        self._next_s = 0.0

    def describe(self, *, is_ready: bool) -> dict[str, Any]:
        """The member `gpus` of a report; without a GPU there is none."""
        now_s = time.monotonic()
        if is_ready and now_s >= self._next_s:
            self._next_s = now_s + INTERVAL_S
            try:
                gpus = read_gpus(self.metrics_url, timeout_s=TIMEOUT_S)
            except (OSError, ValueError, OverflowError):
                gpus = []
            self._found = [asdict(one) for one in gpus]
        return {"gpus": self._found} if self._found and is_ready else {}
