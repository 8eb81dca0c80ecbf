"""Parts are sent at the same time, and not more of them than fit into memory."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from strongroom.push import DEFAULT_THREADS
from tests.sdk.command_line import run, write_model
from tests.sdk.platform_server import Platform

PART_COUNT = 8
# Long enough for a part to come if one more is on its way.
LINGER_S = 0.3


class Gate:
    """Answers no part before so many wait for their answers, or some time has passed.

    Args:
        wanted_count: Opens when so many have come, a moment later.
        within_s: Opens then in any case.
    """

    def __init__(self, wanted_count: int, within_s: float) -> None:
        self._wanted_count, self._within_s = wanted_count, within_s
        self._change = threading.Condition()
        self._waiting_count = 0
        self.most_at_once = 0

    def __call__(self, method: str, path: str) -> None:
        """Hold a request of a part back; the platform calls it before it answers."""
        if method != "PUT" or "/parts/" not in path:
            return
        with self._change:
            self._waiting_count += 1
            self.most_at_once = max(self.most_at_once, self._waiting_count)
            self._change.notify_all()
            if not self._change.wait_for(self._is_open, self._within_s):
                self._wanted_count = 0  # They come one by one; the others need not wait.
            if self._waiting_count >= self._wanted_count:
                self._change.wait_for(self._is_exceeded, LINGER_S)
            self._waiting_count -= 1

    def _is_open(self) -> bool:
        return self.most_at_once >= self._wanted_count

    def _is_exceeded(self) -> bool:
        return self.most_at_once > self._wanted_count


@pytest.fixture
def folder(folder: Path) -> Path:
    """A model of eight parts."""
    write_model(folder, weights_count=PART_COUNT - 1)
    return folder


@pytest.mark.parametrize(("flags", "count"), [([], DEFAULT_THREADS), (["--threads=2"], 2)])
def test_parts_are_sent_at_the_same_time(
    ready: Platform, folder: Path, flags: list[str], count: int
) -> None:
    gate = ready.fault = Gate(count, within_s=60)

    run("push", folder, *flags)

    # One by one, the first would still wait for the second.
    assert gate.most_at_once == count
    assert len(ready.sent_parts()) == PART_COUNT


def test_the_gate_sees_parts_that_are_sent_one_by_one(ready: Platform, folder: Path) -> None:
    gate = ready.fault = Gate(2, within_s=0.05)

    run("push", folder, "--threads=1")

    assert gate.most_at_once == 1
    assert len(ready.sent_parts()) == PART_COUNT
