"""Run between fork and exec of tritonserver: what it must inherit is set here.

A program of its own, not a `preexec_fn`: Python code between fork and exec can deadlock in
a process that has threads, and the node has many. Only the standard library is imported.

It also leaves a watcher behind. A stub does not notice that its tritonserver was killed: it
would wait for requests for ever, with the weights in the clear. The watcher sleeps until
the server ends, however it ends, and then kills what is left of its process group.

Usage: python -I -S launcher.py PARENT_PID PROGRAM [ARGUMENT ...]
A parent of 0 means that the program may outlive whoever started it. The caller must have
made this process the leader of a session.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
# The signal wakes the watcher at once; the look at its parent is for a lost signal.
_LOOK_S = 1.0


def main(arguments: list[str]) -> None:
    parent_pid = int(arguments[0])
    server_pid = os.getpid()
    if parent_pid:
        # Weights in the clear must not live on when the node that answers for them is gone.
        _signal_on_parent_death(signal.SIGKILL)
        if os.getppid() != parent_pid:
            sys.exit("the parent ended before its death could be watched")
    # A core dump would hold the weights.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _raise_locked_memory()
    if os.fork() == 0:
        _watch(server_pid)
        os._exit(0)
    # Python ignores SIGPIPE, and what is ignored stays so through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(arguments[1], arguments[1:])  # noqa: S606 - no shell is wanted


def _watch(server_pid: int) -> None:
    os.setsid()  # Out of the group that will be killed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    _signal_on_parent_death(signal.SIGUSR1)
    while os.getppid() == server_pid:
        signal.sigtimedwait({signal.SIGUSR1}, _LOOK_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server_pid, signal.SIGKILL)


def _signal_on_parent_death(number: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


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
