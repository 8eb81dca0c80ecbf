"""Make a system call in every thread of this process, also in those that know no Python.

Some attributes of a process are the kernel's per thread: capabilities, and Landlock's
rules before ABI 8. Triton's stub has threads of its own before the loader runs. So each
thread is sent a signal whose handler makes the one call, which is how glibc changes the
user id of all threads.

Source: nptl(7), "NPTL and signals"; psx in libcap.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import threading
import time

from inference.serving import kernel
from inference.serving.errors import SandboxError

_TGKILL = 234
# Real-time signals are queued; the C library keeps the first two for itself.
_SIGNAL = 64
_SA_RESTART = 0x10000000
_SIG_IGN = 1
_THREAD_TIMEOUT_S = 5.0
_MAX_ROUNDS = 10


def list_threads() -> set[int]:
    """The kernel's numbers of all threads of this process."""
    return {int(name) for name in os.listdir("/proc/self/task")}  # noqa: PTH208 - /proc


def call_in_all(number: int, first: int, second: int, *, what: str) -> int:
    """Make a system call with two arguments in every thread; returns how many there are.

    The calling thread goes first, so that threads which it starts inherit the effect.
    Threads that others start meanwhile are found by looking again.

    Args:
        number: Of the system call.
        first: A number, or the address of something that stays where it is.
        second: The same.
        what: Names the call in errors.

    Raises:
        OSError: The kernel refused the call to this thread.
        SandboxError: `sandbox_incomplete` if another thread did not make it.
    """
    if platform.machine() != "x86_64":
        raise SandboxError("sandbox_unsupported", "The sandbox needs x86_64.")
    kernel.syscall(number, first, second)
    covered = {threading.get_native_id()}
    call = _Call(number, first, second)
    call.install()
    try:
        for _ in range(_MAX_ROUNDS):
            missing = list_threads() - covered
            if not missing:
                return len(covered)
            for thread in missing:
                if not call.run_in(thread):
                    raise SandboxError("sandbox_incomplete", f"A thread did not make {what}.")
            covered |= missing
    finally:
        call.remove()
    raise SandboxError("sandbox_incomplete", f"Threads are started faster than {what} is made.")


class _Call:
    """A signal handler in machine code, and two counters: calls made, calls refused."""

    def __init__(self, number: int, first: int, second: int) -> None:
        self._counters = (ctypes.c_uint32 * 2)()
        self._page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        code = b"".join(
            (
                b"\xb8" + struct.pack("<I", number),  # mov eax, number
                b"\x48\xbf" + struct.pack("<Q", first),  # mov rdi, first
                b"\x48\xbe" + struct.pack("<Q", second),  # mov rsi, second
                b"\x0f\x05",  # syscall
                b"\x48\xb9" + struct.pack("<Q", ctypes.addressof(self._counters)),  # mov rcx
                b"\x85\xc0",  # test eax, eax
                b"\x75\x04",  # jnz refused
                b"\xf0\xff\x01",  # lock inc dword [rcx]
                b"\xc3",  # ret
                b"\xf0\xff\x41\x04",  # refused: lock inc dword [rcx + 4]
                b"\xc3",  # ret
            )
        )
        ctypes.memmove(self._address, code, len(code))
        # Never writable and executable at once.
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        kernel.checked(kernel.libc.mprotect(self._address, mmap.PAGESIZE, protection))

    def install(self) -> None:
        _set_handler(self._address)

    def remove(self) -> None:
        _set_handler(_SIG_IGN)

    def run_in(self, thread: int) -> bool:
        """Whether the thread made the call, or ended by itself."""
        made_before = self._counters[0]
        try:
            kernel.syscall(_TGKILL, os.getpid(), thread, _SIGNAL)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + _THREAD_TIMEOUT_S
        while self._counters[0] == made_before:
            if self._counters[1] or time.monotonic() > deadline:
                return False
            if thread not in list_threads():
                return True
            time.sleep(0.0001)
        return True


def _set_handler(handler: int) -> None:
    # struct sigaction of glibc: handler, mask of 1024 bits, flags, restorer.
    action = struct.pack("Q128sixxxxQ", handler, bytes(128), _SA_RESTART, 0)
    kernel.checked(kernel.libc.sigaction(_SIGNAL, action, None))
