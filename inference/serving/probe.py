"""Try what a confined process must not be able to do, and say what happened.

Every attempt is harmless where it succeeds, so the same probe can run in a process
without a sandbox: there it must find the doors open, or it proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from inference.serving import kernel

REFUSED, ALLOWED = "refused", "allowed"
# Attempts that only Landlock refuses.
LANDLOCK_PROBES = frozenset({"read_etc", "list_root", "read_other_process"})

_REFUSALS = frozenset({errno.EPERM, errno.EACCES})
_CLONE, _EXECVE, _PTRACE, _KEYCTL, _UNSHARE, _CLONE3 = 56, 59, 101, 250, 272, 435
_PROCESS_VM_READV, _MEMFD_CREATE, _BPF, _IO_URING_SETUP = 310, 319, 321, 425
_PIDFD_OPEN, _PRLIMIT64 = 434, 302
_GETPID_X32 = 0x40000000 | 39


def run() -> dict[str, str]:
    """Outcome by attempt: `refused`, or `allowed` for anything else that happened."""
    return {name: _try(attempt) for name, attempt in PROBES.items()}


def _try(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        # "No such file" means that the door was open and nothing stood behind it.
        return REFUSED if error.errno in _REFUSALS else ALLOWED
    return ALLOWED


def _open_socket(family: int) -> None:
    socket.socket(family, socket.SOCK_STREAM).close()


def _fork() -> None:
    # Not os.fork: its hooks would stop the thread pools of numeric libraries.
    child = kernel.syscall(_CLONE, signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _write(folder: str) -> None:
    path = Path(folder) / f"strongroom-probe-{os.getpid()}"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.close(handle)
    path.unlink()


def _read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _make_memfd() -> None:
    os.close(kernel.syscall(_MEMFD_CREATE, b"probe", 0))


def _undo_dumpable() -> None:
    before = kernel.prctl(kernel.PR_GET_DUMPABLE)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, before)


def _call_clone3() -> None:
    """Refused by being "not implemented", since its flags cannot be looked at."""
    try:
        kernel.syscall(_CLONE3, None, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise PermissionError(errno.EPERM, "not implemented") from None
        raise


def _raise_limit() -> None:
    """Set the address-space limit to what it is: changing any limit must fail."""
    limit = (ctypes.c_uint64 * 2)(*_unsigned(resource.getrlimit(resource.RLIMIT_AS)))
    kernel.syscall(_PRLIMIT64, 0, resource.RLIMIT_AS, ctypes.addressof(limit), 0)


def _unsigned(limit: tuple[int, int]) -> list[int]:
    # Python shows "unlimited" as -1.
    return [one & (2**64 - 1) for one in limit]


PROBES: Mapping[str, Callable[[], object]] = {
    "socket_inet": lambda: _open_socket(socket.AF_INET),
    "socket_unix": lambda: _open_socket(socket.AF_UNIX),
    "exec": lambda: kernel.syscall(_EXECVE, b"/nonexistent/program", None, None),
    "fork": _fork,
    "clone3": _call_clone3,
    "unshare": lambda: kernel.syscall(_UNSHARE, 0),
    # An unknown request to our own parent: the answer is "no such request" if anyone listens.
    "ptrace": lambda: kernel.syscall(_PTRACE, 0x4FFF, os.getppid(), 0, 0),
    "read_process_memory": lambda: kernel.syscall(
        _PROCESS_VM_READV, os.getpid(), None, 0, None, 0, 0
    ),
    "signal_parent": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "pidfd": lambda: os.close(kernel.syscall(_PIDFD_OPEN, os.getppid(), 0)),
    "bpf": lambda: kernel.syscall(_BPF, 0xFFFF, None, 0),
    "io_uring": lambda: kernel.syscall(_IO_URING_SETUP, 0, None),
    "keyring": lambda: kernel.syscall(_KEYCTL, 0, -3, 0),
    "memfd": _make_memfd,
    "x32": lambda: kernel.syscall(_GETPID_X32),
    "dumpable": _undo_dumpable,
    "raise_limit": _raise_limit,
    "write_temporary": lambda: _write("/tmp"),  # noqa: S108 - that it fails is the point
    "write_shared_memory": lambda: _write("/dev/shm"),  # noqa: S108 - that it fails is the point
    "open_for_writing": lambda: os.close(os.open("/dev/null", os.O_WRONLY)),
    "read_etc": lambda: _read("/etc/passwd"),
    "list_root": lambda: list(Path("/").iterdir()),
    "read_other_process": lambda: _read(f"/proc/{os.getppid()}/environ"),
}
