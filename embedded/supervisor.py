"""Start the children in order, keep them running, stop them all.

One thread looks at every child ten times a second. A thread for each child would not do:
the kernel's death signal follows the thread that started a process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from embedded import descendants
from embedded.child import Child, State, rotate
from embedded.processes import Process
from embedded.status import Status

_TICK_S = 0.1
_ROTATE_EVERY_S = 5.0
_SWEEP_EVERY_S = 1.0
# A child that has never been ready and fails this often will not come up by itself.
START_FAILURES_MAX = 3


class StartFailedError(Exception):
    """A part did not come up; holds it."""

    def __init__(self, child: Child) -> None:
        super().__init__(child.name)
        self.child = child


class Supervisor:
    """All children of one home.

    Args:
        processes: In the order in which they are shown.
        logs: Folder for their output.
        status: Where their state is shown.
    """

    def __init__(self, processes: Sequence[Process], logs: Path, status: Status) -> None:
        self.children = [Child(process, logs) for process in processes]
        self._by_name = {child.name: child for child in self.children}
        self._logs = logs
        self._status = status
        self._stop_requests = 0
        self._rotated_at = self._swept_at = 0.0
        self._orphans: dict[int, float] = {}

    def install_signals(self) -> None:
        """The first SIGINT, SIGTERM or SIGHUP stops; the second does not wait."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def request_stop(self) -> None:
        """As a signal does."""
        self._stop_requests += 1

    @property
    def is_stopping(self) -> bool:
        return self._stop_requests > 0

    def start_all(self) -> bool:
        """Start everything in order; False if a signal came first.

        Raises:
            StartFailedError: A part does not come up; the others still run.
        """
        while not all(child.is_settled for child in self.children):
            if self.is_stopping:
                return False
            for child in self.children:
                if child.state is State.WAITING and self._may_start(child):
                    child.start()
            self._look()
            for child in self.children:
                self._check_start(child)
        return True

    def run(self) -> None:
        """Keep everything running until a signal comes."""
        while not self.is_stopping:
            self._look()

    def stop_all(self) -> None:
        """Stop everything, in the reverse order of the start; returns when all have ended."""
        while not all(child.is_over for child in self.children):
            for child in self.children:
                # Looked at in the next round only: whoever reads along sees each step.
                child.watch_stop()
                stopping = child.state in (State.STOPPING, State.STOPPED)
                if not stopping and self._may_stop(child):
                    child.stop()
                if self._stop_requests > 1:
                    child.kill()
            self._status.show(self.children)
            time.sleep(_TICK_S)
        self._status.show(self.children)

    def _look(self) -> None:
        for child in self.children:
            child.watch()
            for text in child.take_announcements():
                self._status.say(text)
        now = time.monotonic()
        if now - self._rotated_at > _ROTATE_EVERY_S:
            self._rotated_at = now
            for path in self._logs.glob("*.log"):
                rotate(path)
        if now - self._swept_at > _SWEEP_EVERY_S:
            self._swept_at = now
            self._sweep_orphans()
        self._status.show(self.children)
        time.sleep(_TICK_S)

    def _may_start(self, child: Child) -> bool:
        return all(
            self._by_name[name].is_settled for name in child.process.after if name in self._by_name
        )

    def _may_stop(self, child: Child) -> bool:
        return all(one.is_over for one in self.children if child.name in self._needs(one))

    def _needs(self, child: Child) -> set[str]:
        """All that a child stands on, directly or through others."""
        found: set[str] = set()
        wave = set(child.process.after)
        while wave:
            found |= wave
            wave = {
                name for one in self.children if one.name in wave for name in one.process.after
            } - found
        return found

    def _check_start(self, child: Child) -> None:
        hopeless = not child.was_ready and child.failures >= START_FAILURES_MAX
        if hopeless or child.state is State.FAILED:
            raise StartFailedError(child)

    def _sweep_orphans(self) -> None:
        """End what lost its parent: we are the reaper of all that descends from us.

        A grandchild whose parent was killed comes to us. It has a moment to notice by
        itself; after two looks it is killed.
        """
        known = {child.pid for child in self.children}
        orphans = {pid: 0.0 for pid in descendants.list_children(os.getpid()) if pid not in known}
        for pid in orphans:
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    continue
            if pid in self._orphans:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        self._orphans = orphans

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requests += 1
