"""A seccomp filter: system calls that a model being served never needs.

The list names what is denied, since torch, ONNX Runtime and the C library need more
calls than anyone can list for all their versions. Where a call is needed in one form
only, its arguments decide: files are opened for reading only, processes are never made
but threads are, signals reach nobody but this process.

The filter holds for all threads at once, also for those that Triton's stub started
before. Denied calls answer EPERM, so that a library can go on without them.

Source: seccomp(2); the numbers are those of Linux on x86-64 (syscall_64.tbl).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping, Sequence

from inference.serving import kernel
from inference.serving.errors import SandboxError

_SECCOMP = 317
_SET_MODE_FILTER, _FLAG_TSYNC, _GET_ACTION_AVAIL = 1, 1, 2
_ARCH_X86_64 = 0xC000003E
# Numbers with this bit belong to the x32 interface, a second name for every call.
_X32_BIT = 0x40000000

# Instructions of classic BPF, and where seccomp_data holds what.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_Program = list[tuple[int, int, int, int]]

DENIED: Mapping[str, int] = {
    # The network: the one connection to the node was opened before.
    "socket": 41,
    "connect": 42,
    "accept": 43,
    "bind": 49,
    "listen": 50,
    "socketpair": 53,
    "accept4": 288,
    # Other programs.
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "execveat": 322,
    # Other processes: their memory, their files, their signals.
    "ptrace": 101,
    "tkill": 200,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    # Memory that others can open or that outlives the process.
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "semget": 64,
    "msgget": 68,
    "mq_open": 240,
    "memfd_create": 319,
    # Changes to files and folders; opening for writing is decided below.
    "truncate": 76,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "creat": 85,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "chmod": 90,
    "fchmod": 91,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "utime": 132,
    "mknod": 133,
    "setxattr": 188,
    "lsetxattr": 189,
    "fsetxattr": 190,
    "removexattr": 197,
    "lremovexattr": 198,
    "fremovexattr": 199,
    "utimes": 235,
    "mkdirat": 258,
    "mknodat": 259,
    "fchownat": 260,
    "futimesat": 261,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "fchmodat": 268,
    "utimensat": 280,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "renameat2": 316,
    "fchmodat2": 452,
    "setxattrat": 463,
    "removexattrat": 466,
    # Who the process is, and what it may use.
    "setuid": 105,
    "setgid": 106,
    "setreuid": 113,
    "setregid": 114,
    "setgroups": 116,
    "setresuid": 117,
    "setresgid": 119,
    "setfsuid": 122,
    "setfsgid": 123,
    "capset": 126,
    "personality": 135,
    "modify_ldt": 154,
    "setrlimit": 160,
    # The system.
    "syslog": 103,
    "pivot_root": 155,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "clock_adjtime": 305,
    "setns": 308,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}

# These answer "not implemented": their arguments lie in memory, where a filter cannot
# look, and the C library then falls back to the older call, whose arguments are checked.
UNAVAILABLE: Mapping[str, int] = {"clone3": 435, "openat2": 437}

_OPEN, _OPENAT, _CLONE, _KILL, _TGKILL, _PRCTL, _PRLIMIT64 = 2, 257, 56, 62, 234, 157, 302
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0x400000  # O_TMPFILE
_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020000
_PR_SET_PTRACER = 0x59616D61


def is_supported() -> bool:
    """Whether this kernel takes filters, and this filter knows its system calls."""
    try:
        kernel.syscall(_SECCOMP, _GET_ACTION_AVAIL, 0, struct.pack("I", _ERRNO))
    except OSError:
        return False
    return platform.machine() == "x86_64"


def install() -> None:
    """Put the filter on every thread of this process, for good.

    Raises:
        SandboxError: `sandbox_unsupported` on another architecture, or where the kernel
            refuses the filter.
    """
    machine = platform.machine()
    if machine != "x86_64":
        # The numbers mean other calls there; a wrong filter is worse than none.
        detail = f"The sandbox knows the system calls of x86_64, not of {machine}."
        raise SandboxError("sandbox_unsupported", detail)
    code = b"".join(struct.pack("HBBI", *step) for step in build_program(os.getpid()))
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    try:
        failed_thread = kernel.syscall(_SECCOMP, _SET_MODE_FILTER, _FLAG_TSYNC, header)
    except OSError as error:
        detail = f"The kernel refused the seccomp filter: {error.strerror}."
        raise SandboxError("sandbox_unsupported", detail) from None
    if failed_thread:
        # A positive answer names a thread that has another filter of its own.
        raise SandboxError("sandbox_incomplete", "A thread could not be given the filter.")


def build_program(pid: int) -> _Program:
    """The filter's instructions: (code, jump if true, jump if false, constant)."""
    program: _Program = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, _ARCH_X86_64),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    # Calls that are made often come first: the kernel runs the filter on each of them.
    for number, flags_argument in ((_OPENAT, 2), (_OPEN, 1)):
        program += _rule(number, _deny_if_any(flags_argument, _WRITING_FLAGS))
    program += _rule(
        _CLONE, _deny_if_any(0, _CLONE_NAMESPACES) + _deny_unless_any(0, _CLONE_THREAD)
    )
    # Triton's stub asks with signal 0 whether its server is still alive.
    program += _rule(_KILL, _deny_unless_equal(1, 0))
    program += _rule(_TGKILL, _deny_unless_equal(0, pid))
    program += _rule(
        _PRCTL, _deny_if_equal(0, kernel.PR_SET_DUMPABLE) + _deny_if_equal(0, _PR_SET_PTRACER)
    )
    # Reading limits is fine; new ones come behind a pointer.
    program += _rule(_PRLIMIT64, _deny_unless_equal(2, 0) + _deny_unless_equal(2, 0, is_upper=True))
    for number in UNAVAILABLE.values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number in DENIED.values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return program


def _rule(number: int, checks: Sequence[tuple[int, int, int, int]]) -> _Program:
    """Checks of one call; it is allowed if none of them denies it."""
    body = [*checks, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), number), *body]


def _load_argument(argument: int, *, is_upper: bool = False) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument + (4 if is_upper else 0))


_DENY = (_RETURN, 0, 0, _ERRNO | errno.EPERM)


def _deny_if_any(argument: int, bits: int) -> _Program:
    return [_load_argument(argument), (_ANY_BIT, 0, 1, bits), _DENY]


def _deny_unless_any(argument: int, bits: int) -> _Program:
    return [_load_argument(argument), (_ANY_BIT, 1, 0, bits), _DENY]


def _deny_if_equal(argument: int, value: int) -> _Program:
    return [_load_argument(argument), (_EQUAL, 0, 1, value), _DENY]


def _deny_unless_equal(argument: int, value: int, *, is_upper: bool = False) -> _Program:
    return [_load_argument(argument, is_upper=is_upper), (_EQUAL, 1, 0, value), _DENY]
