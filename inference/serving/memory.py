"""Memory for plaintext: private to this process, not dumped, not swapped if possible.

Anonymous pages only. A file in /dev/shm or a memfd could be opened by others and be
written to swap. Locking happens as pages are touched; locking all at once took nineteen
times as long as decrypting.

Source: mlock2(2), madvise(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from inference.serving import kernel

_MADV_DONTFORK, _MADV_HUGEPAGE, _MADV_DONTDUMP = 10, 14, 16
_MLOCK_ONFAULT = 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
# Of the widest number in a tensor. Files are usually aligned to it already, and moving
# a large one takes as long as decrypting it.
ALIGNMENT_BYTES = 8
# What stays for the system and the other processes of the node.
_SPARED_SHARE = 0.2
_SPARED_BYTES_MIN = 256 * 1024 * 1024
# Between two of these a thread can be stopped. Smaller ones wait longer for Python's lock, which
# the imports beside them hold, than they work.
_PREFAULT_STEP_BYTES = 32 * 1024 * 1024
_READ_AHEAD_STEP_BYTES = 16 * 1024 * 1024


class PlainBuffer:
    """One plain file in memory; `view` is its content."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._length = max(size_bytes, 1) + ALIGNMENT_BYTES
        self._map = mmap.mmap(-1, self._length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for advice in (_MADV_HUGEPAGE, _MADV_DONTDUMP, _MADV_DONTFORK):
            # Advice that this kernel does not know is no reason to fail.
            kernel.libc.madvise(self._address, self._length, advice)
        self.is_locked = kernel.libc.mlock2(self._address, self._length, _MLOCK_ONFAULT) == 0
        self._begin = 0

    @property
    def view(self) -> memoryview:
        """The content; writable, and empty once it was wiped."""
        if self._map.closed:
            return memoryview(b"")
        return memoryview(self._map)[self._begin : self._begin + self.size_bytes]

    def align(self, offset: int) -> None:
        """Move the content so that its byte `offset` stands at an aligned address.

        Call it before any view is handed out: views do not move along.
        """
        begin = -offset % ALIGNMENT_BYTES
        if begin != self._begin:
            source = self._address + self._begin
            ctypes.memmove(self._address + begin, source, self.size_bytes)
            self._begin = begin

    def prefault(self, is_stopped: Callable[[], bool]) -> None:
        """Touch the pages now, step by step until told to stop.

        Not MADV_POPULATE_WRITE: it holds the lock of the whole address space, which the
        imports beside it need for every library that they map.
        """
        pages = np.frombuffer(self._map, np.uint8)
        for begin in range(0, self._length, _PREFAULT_STEP_BYTES):
            if is_stopped():
                return
            pages[begin : begin + _PREFAULT_STEP_BYTES : mmap.PAGESIZE] = 0

    def wipe(self) -> None:
        """Overwrite the content with zeros, and give the pages back if nobody uses them."""
        if self._map.closed:
            return
        ctypes.memset(self._address, 0, self._length)
        self.size_bytes = 0
        # Tensors may still look at it. They see zeros, and the process ends soon.
        with suppress(BufferError):
            self._map.close()


class Prefault:
    """Readies memory and files beside other work, for as long as the block runs.

    Getting and clearing pages takes several times as long as decrypting into them, and
    reading the ciphertext from a disk longer still; neither needs a key. What is not done
    at the end of the block is done on first use.

    Args:
        buffers: Whose pages are fetched.
        handles: Files that will be read from beginning to end.
    """

    def __init__(self, buffers: Sequence[PlainBuffer], handles: Sequence[int] = ()) -> None:
        self._buffers = buffers
        self._handles = handles
        self._stop = threading.Event()
        # The disk works on while pages are cleared.
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._read_ahead, self._prefault)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _prefault(self) -> None:
        for buffer in self._buffers:
            buffer.prefault(self._stop.is_set)

    def _read_ahead(self) -> None:
        """Have the kernel read every file, and hand it where it is dropped without a copy."""
        with suppress(OSError), Path(os.devnull).open("wb", buffering=0) as nowhere:
            for handle in self._handles:
                begin = 0
                while not self._stop.is_set():
                    count = os.sendfile(nowhere.fileno(), handle, begin, _READ_AHEAD_STEP_BYTES)
                    begin += count
                    if not count:
                        break


def wipe(secret: bytearray) -> None:
    """Overwrite a key."""
    secret[:] = bytes(len(secret))


def wipe_bytes(content: bytes) -> None:
    """Overwrite a bytes object that a library insisted on, and that nobody else holds.

    Python promises that bytes never change, so the caller must own the only reference.
    Objects of less than two bytes are shared by the whole interpreter and are left.
    """
    if len(content) < 2:
        return
    header_size = bytes.__basicsize__ - 1
    ctypes.memset(id(content) + header_size, 0, len(content))


def lock_process() -> bool:
    """Keep all memory of this process out of swap; false where the limit does not allow.

    Libraries copy weights into memory of their own, which only a lock on everything
    covers. It needs an unlimited RLIMIT_MEMLOCK, or the capability that goes around it:
    with any limit, later allocations of the libraries would fail.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not kernel.has_capability(kernel.CAP_IPC_LOCK):
        return False
    flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
    return int(kernel.libc.mlockall(flags)) == 0


def has_swap() -> bool:
    """Whether this machine could write memory to a disk at all."""
    with suppress(OSError):
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    return True


def limit_address_space() -> int:
    """Let allocations fail before the machine runs out of memory; returns the limit.

    A graph can ask for any amount in one node. An error for one request is better than
    a node killed by the kernel.
    """
    available = available_bytes()
    spared = max(_SPARED_BYTES_MIN, int(available * _SPARED_SHARE))
    limit = _address_space_bytes() + max(available - spared, _SPARED_BYTES_MIN)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


def available_bytes() -> int:
    """Memory that could be used now, by the machine and by the control group."""
    found = [_read_available()]
    with suppress(OSError, ValueError):
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) - used)
    return max(0, min(found))


def resident_bytes() -> int:
    """Memory of this process that lies in RAM."""
    return _statm()[1] * mmap.PAGESIZE


def _address_space_bytes() -> int:
    return _statm()[0] * mmap.PAGESIZE


def _statm() -> list[int]:
    return [int(one) for one in Path("/proc/self/statm").read_text().split()]


def _read_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
