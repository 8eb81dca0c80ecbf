"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
PR_SET_NO_NEW_PRIVS = 38
CAP_IPC_LOCK = 14

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; integers are passed with all their 64 bits.

    Raises:
        OSError: The kernel refused.
    """
    converted = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *converted))


def prctl(option: int, value: int = 0) -> int:
    """Change or read an attribute of this process or thread.

    Raises:
        OSError: The kernel refused.
    """
    zero = ctypes.c_ulong(0)
    return checked(libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def checked(result: int) -> int:
    """Turn the C convention of -1 and errno into an exception.

    Raises:
        OSError: `result` is negative.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def has_capability(number: int) -> bool:
    """Whether this thread may use a capability now."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
