"""Run between fork and exec of tritonserver: what it must inherit is set here.

A program of its own, not a `preexec_fn`: Python code between fork and exec can deadlock in
a process that has threads, and the node has many. Only the standard library is imported.

Usage: python -I -S launcher.py PARENT_PID PROGRAM [ARGUMENT ...]
A parent of 0 means that the program may outlive whoever started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent_pid = int(arguments[0])
    if parent_pid:
        # Weights in the clear must not live on when the node that answers for them is gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            sys.exit("the parent ended before its death could be watched")
    # A core dump would hold the weights.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _raise_locked_memory()
    # Python ignores SIGPIPE and a handler set to "ignore" would survive exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(arguments[1], arguments[1:])  # noqa: S606 - no shell is wanted


def _raise_locked_memory() -> None:
    """The loader locks the weights into memory: let it lock as much as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    with contextlib.suppress(OSError, ValueError):  # Root may go further.
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))


if __name__ == "__main__":
    main(sys.argv[1:])
