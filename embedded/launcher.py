"""Run between fork and exec of every child: what it must inherit is set here.

A program of its own, not a `preexec_fn`: Python code between fork and exec can deadlock in
a process that has threads. Only the standard library is imported.

Root starts Postgres as another user, since Postgres refuses root. Where that user cannot
enter the folders of the program or of its data (a home below /root), it is given one
capability, to pass and read folders whatever their mode; it stays an ordinary user
otherwise. An *ambient* capability is used, because only those survive exec of a program
without file capabilities, and because they leave the dynamic linker's search paths intact.

Usage: python -I -S launcher.py PARENT_PID DEATH_SIGNAL UID GID CAPABILITY PROGRAM [ARGUMENT ...]
UID -1 keeps the user; CAPABILITY -1 gives none. The caller must have made this process the
leader of a session.

Source: capabilities(7), prctl(2) PR_SET_PDEATHSIG and PR_CAP_AMBIENT.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    parent_pid, death_signal, uid, gid, capability = (int(text) for text in arguments[:5])
    program = arguments[5:]
    # A core dump of almost any of our processes would hold secrets.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if uid >= 0:
        become(uid, gid, capability)
    # After the change of user, which clears it.
    _prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before its death could be watched")
    # Python ignores SIGPIPE, and what is ignored stays so through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


def become(uid: int, gid: int, capability: int = -1) -> None:
    """Change to another user, keeping at most one capability."""
    if capability >= 0:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capability >= 0:
        _set_capabilities(1 << capability)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _set_capabilities(mask: int) -> None:
    """Effective, permitted and inheritable become exactly `mask` (of the first 32)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    _check(ctypes.CDLL(None, use_errno=True).capset(header, data), "capset")


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _check(ctypes.CDLL(None, use_errno=True).prctl(option, *padded), "prctl")


def _check(answer: int, call: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
