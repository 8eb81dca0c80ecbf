"""Start one child: session of its own, log file, death with its parent, chosen user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedded.system_user import OURSELVES, SystemUser

_LAUNCHER = Path(__file__).with_name("launcher.py")


def launcher_command(
    command: Sequence[str | Path], *, user: SystemUser, death_signal: signal.Signals
) -> list[str]:
    """`command` behind the launcher that prepares the process (see launcher.py)."""
    first = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(death_signal))]
    first += [str(user.uid), str(user.gid), str(user.capability)]
    return first + [str(part) for part in command]


def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    user: SystemUser = OURSELVES,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a child whose output is appended to `log`.

    Args:
        command: Program (absolute path) and arguments.
        env: Its whole environment; nothing is inherited.
        cwd: Working folder.
        log: File for standard output and standard error, made with mode 0600.
        user: Whom it runs as.
        death_signal: What it receives when the thread that calls this ends, even by SIGKILL.
            Call it from a thread that lives as long as the child may.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            launcher_command(command, user=user, death_signal=death_signal),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
