"""The filter's program, run by a small interpreter of classic BPF."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from inference.serving import seccomp

PID = 4242
ALLOW, KILL = "allow", "kill"


def run(number: int, *arguments: int, arch: int = 0xC000003E) -> str | int:
    """What the filter answers to a call: `allow`, `kill`, or the errno."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    program = seccomp.build_program(PID)
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(constant, constant & 0xFFFF)
        else:
            holds = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("_name", seccomp.DENIED)
def test_denied_calls(_name):
    assert run(seccomp.DENIED[_name]) == errno.EPERM


@pytest.mark.parametrize("_name", seccomp.UNAVAILABLE)
def test_calls_with_arguments_in_memory_are_not_implemented(_name):
    assert run(seccomp.UNAVAILABLE[_name]) == errno.ENOSYS


def test_numbers_are_listed_once():
    numbers = [*seccomp.DENIED.values(), *seccomp.UNAVAILABLE.values()]

    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("_number", "_arguments", "_answer"),
    [
        (257, (0, 0, os.O_RDONLY), ALLOW),
        (257, (0, 0, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY), ALLOW),
        (257, (0, 0, os.O_PATH | os.O_CLOEXEC), ALLOW),
        (257, (0, 0, os.O_WRONLY), errno.EPERM),
        (257, (0, 0, os.O_RDWR | os.O_CLOEXEC), errno.EPERM),
        (257, (0, 0, os.O_RDONLY | os.O_CREAT), errno.EPERM),
        (257, (0, 0, os.O_RDONLY | os.O_TRUNC), errno.EPERM),
        (257, (0, 0, os.O_TMPFILE), errno.EPERM),
        (2, (0, os.O_RDONLY), ALLOW),
        (2, (0, os.O_WRONLY), errno.EPERM),
        # Threads, as the C library starts them.
        (56, (0x3D0F00,), ALLOW),
        (56, (17,), errno.EPERM),
        (56, (0x3D0F00 | 0x10000000,), errno.EPERM),
        (62, (1, 0), ALLOW),
        (62, (1, 9), errno.EPERM),
        (234, (PID, 7, 6), ALLOW),
        (234, (PID + 1, 7, 6), errno.EPERM),
        (157, (15,), ALLOW),
        (157, (4, 1), errno.EPERM),
        (157, (0x59616D61,), errno.EPERM),
        (302, (0, 4, 0), ALLOW),
        (302, (0, 4, 0x7F00), errno.EPERM),
        (302, (0, 4, 0x7F00_0000_0000), errno.EPERM),
        # Read, write, mmap, futex, ftruncate (Triton's shared memory grows), sendto.
        (0, (), ALLOW),
        (1, (), ALLOW),
        (9, (), ALLOW),
        (202, (), ALLOW),
        (77, (), ALLOW),
        (44, (), ALLOW),
        (0x40000000 | 1, (), errno.EPERM),
    ],
)
def test_calls_that_depend_on_their_arguments(_number, _arguments, _answer):
    assert run(_number, *_arguments) == _answer


def test_other_architectures_end_the_process():
    assert run(1, arch=0x40000003) == KILL


def test_program_is_one_the_kernel_takes():
    program = seccomp.build_program(PID)

    assert len(program) <= 4096
    assert all(jump < 256 for step in program for jump in step[1:3])
