from __future__ import annotations

import ctypes
import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from inference.serving import memory
from tests.inference.serving.children import run_child

# Of /proc/PID/pagemap: see proc_pid_pagemap(5).
PAGE_ENTRY_BYTES = 8
PAGE_PRESENT_BIT = np.uint64(63)


def flags_at(address: int) -> set[str]:
    """The kernel's flags of the mapping that holds an address."""
    found = False
    with Path("/proc/self/smaps").open() as lines:
        for line in lines:
            first = line.split()[0]
            if "-" in first and first[0] in "0123456789abcdef":
                begin, end = (int(one, 16) for one in first.split("-"))
                found = begin <= address < end
            elif found and line.startswith("VmFlags:"):
                return set(line.split()[1:])
    raise AssertionError("no such mapping")


def address_of(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_pages_are_private_and_stay_out_of_dumps_and_swap():
    buffer = memory.PlainBuffer(5_000_000)

    flags = flags_at(address_of(buffer.view))

    assert {"dd", "dc"} <= flags
    assert ("lo" in flags) is buffer.is_locked
    assert "sh" not in flags
    buffer.wipe()


def test_without_a_right_to_lock_it_says_so():
    found = run_child(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
        kernel.has_capability = lambda _: False
        sandbox.drop_capabilities()
        buffer = memory.PlainBuffer(5_000_000)
        answer([memory.lock_process(), buffer.is_locked, memory.PlainBuffer(10).is_locked])
        """
    )

    assert found == [False, False, True]


def test_content_can_be_moved_to_an_aligned_address():
    buffer = memory.PlainBuffer(1000)
    content = bytes(range(250)) * 4
    buffer.view[:] = content

    buffer.align(13)

    assert address_of(buffer.view[13:]) % memory.ALIGNMENT_BYTES == 0
    assert bytes(buffer.view) == content
    buffer.align(0)
    assert address_of(buffer.view) % memory.ALIGNMENT_BYTES == 0
    assert bytes(buffer.view) == content


def resident_of(buffer: memory.PlainBuffer) -> int:
    """Bytes of its pages that are there: of its own, whatever else this process does."""
    count = -(-len(buffer.view) // mmap.PAGESIZE)
    with Path("/proc/self/pagemap").open("rb") as pages:
        pages.seek(address_of(buffer.view) // mmap.PAGESIZE * PAGE_ENTRY_BYTES)
        entries = np.frombuffer(pages.read(count * PAGE_ENTRY_BYTES), np.uint64)
    return int(np.count_nonzero(entries >> PAGE_PRESENT_BIT)) * mmap.PAGESIZE


def wait_for_threads(prefault: memory.Prefault) -> None:
    for thread in prefault._threads:
        thread.join()


def test_pages_are_fetched_beside_other_work():
    buffers = [memory.PlainBuffer(40_000_000), memory.PlainBuffer(0)]

    with memory.Prefault(buffers) as prefault:
        wait_for_threads(prefault)

    assert resident_of(buffers[0]) > 35_000_000
    assert bytes(buffers[0].view[:1000]) == bytes(1000)


def test_files_are_read_ahead_from_beginning_to_end(monkeypatch, tmp_path):
    asked = []
    sendfile = os.sendfile

    def note(target: int, handle: int, begin: int, count: int) -> int:
        asked.append((handle, begin))
        return sendfile(target, handle, begin, count)

    monkeypatch.setattr(os, "sendfile", note)
    monkeypatch.setattr(memory, "_READ_AHEAD_STEP_BYTES", 128 * 1024)
    path, other = tmp_path / "part", tmp_path / "other"
    path.write_bytes(bytes(300 * 1024))
    other.write_bytes(b"")

    with path.open("rb") as file, other.open("rb") as empty:
        handle, nothing = file.fileno(), empty.fileno()
        with memory.Prefault([], [handle, nothing]) as prefault:
            wait_for_threads(prefault)

    ends = [0, 128 * 1024, 256 * 1024, 300 * 1024]
    assert asked == [*((handle, one) for one in ends), (nothing, 0)]


def test_a_file_that_cannot_be_read_ahead_is_left_for_later():
    handle, other = os.pipe()
    try:
        with memory.Prefault([], [handle]) as prefault:
            wait_for_threads(prefault)
    finally:
        os.close(handle)
        os.close(other)


def test_fetching_stops_with_the_block():
    asked = []
    buffer = memory.PlainBuffer(100 << 20)

    buffer.prefault(lambda: asked.append(1) or len(asked) == 3)

    assert len(asked) == 3
    assert resident_of(buffer) < 70 << 20


def test_wiping_overwrites_what_others_still_look_at():
    buffer = memory.PlainBuffer(100)
    view = buffer.view
    view[:] = b"x" * 100

    buffer.wipe()

    assert bytes(view) == bytes(100)
    assert len(buffer.view) == 0


def test_wiping_twice_and_wiping_nothing_are_harmless():
    for size_bytes in (0, 1, 70_000):
        buffer = memory.PlainBuffer(size_bytes)
        assert len(buffer.view) == size_bytes
        buffer.wipe()
        buffer.wipe()


def test_keys_are_overwritten():
    key = bytearray(b"k" * 32)

    memory.wipe(key)

    assert key == bytes(32)


@pytest.mark.parametrize("_size", [2, 100, 1_000_000])
def test_bytes_of_ours_are_overwritten(_size):
    content = bytes(bytearray(b"x" * _size))

    memory.wipe_bytes(content)

    assert content == bytes(_size)


def test_bytes_that_the_interpreter_shares_are_left():
    memory.wipe_bytes(bytes([120]))
    memory.wipe_bytes(b"")

    assert bytes([120])[0] == 120


def test_allocations_fail_before_the_machine_does():
    found = run_child(
        """
        limit = memory.limit_address_space()
        try:
            bytearray(memory.available_bytes() + (1 << 30))
        except MemoryError:
            answer([limit, len(bytearray(1 << 20))])
        """
    )

    assert 0 < found[0] < resource.RLIM_INFINITY or found[0] > 1 << 30
    assert found[1] == 1 << 20
