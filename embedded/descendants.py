"""Everything that descends from a process, so that nothing of it is left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY_S = 0.05


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def follow_parent(number: signal.Signals, parent_pid: int) -> None:
    """Receive a signal when the parent ends, at once if it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), number)


def parents() -> dict[int, int]:
    """Parent's pid by pid, of every process that exists."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name in brackets may hold spaces and brackets itself.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(fields[1])
    return found


def list_children(pid: int) -> list[int]:
    """The pids that have `pid` as their parent; zombies included."""
    return [child for child, parent in parents().items() if parent == pid]


def list_descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    table = parents()
    found: list[int] = []
    wave = {pid}
    while wave:
        wave = {child for child, parent in table.items() if parent in wave}
        found += wave
    return found


def end_all(patience_s: float) -> list[int]:
    """Wait for every descendant to end, then kill the rest; returns who was killed."""
    deadline = time.monotonic() + patience_s
    killed: set[int] = set()
    while remaining := _reap_and_list():
        if time.monotonic() >= deadline:
            for pid in remaining:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        time.sleep(_LOOK_EVERY_S)
    return sorted(killed)


def _reap_and_list() -> list[int]:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return list_descendants(os.getpid())
