"""Landlock: the only files this process may read from now on; it may write none.

The kernel binds a rule set to a thread, not to the process, until ABI 8 can do all at
once; before it, every thread is made to bind itself.

Source: landlock(7), landlock_restrict_self(2).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from inference.serving import kernel, threads
from inference.serving.errors import SandboxError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RESTRICT_ALL_THREADS = 1 << 3  # Since ABI 8.

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# How many rights each ABI knows; a rule set may only name known ones.
_RIGHTS_BY_ABI = ((5, 16), (3, 15), (2, 14), (1, 13))
_NET_BIND_AND_CONNECT = 3  # Since ABI 4.
_SCOPE_ABSTRACT_SOCKETS = 1  # Since ABI 6. Signals stay: the stub watches its server by one.


def find_abi() -> int:
    """The version of Landlock in this kernel; 0 where there is none."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _GET_VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[Path]) -> int:
    """Refuse every file but the readable ones, to all threads, for good.

    Args:
        readable: Files, and folders with all that is in them. Missing ones are passed
            over.

    Returns:
        The number of threads that are restricted.

    Raises:
        SandboxError: `sandbox_unsupported` without Landlock, `sandbox_incomplete` if a
            thread could not be restricted.
    """
    abi = find_abi()
    if not abi:
        raise SandboxError("sandbox_unsupported", "This kernel has no Landlock.")
    ruleset = _create_ruleset(abi)
    try:
        for path in readable:
            _add_rule(ruleset, path)
        if abi >= 8:
            kernel.syscall(_RESTRICT_SELF, ruleset, _RESTRICT_ALL_THREADS)
            return len(threads.list_threads())
        return threads.call_in_all(_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    except OSError as error:
        detail = f"Landlock refused its rules: {error.strerror}."
        raise SandboxError("sandbox_incomplete", detail) from None
    finally:
        os.close(ruleset)


def _create_ruleset(abi: int) -> int:
    rights = next(bits for version, bits in _RIGHTS_BY_ABI if abi >= version)
    attributes = struct.pack("Q", (1 << rights) - 1)
    if abi >= 4:
        attributes += struct.pack("Q", _NET_BIND_AND_CONNECT)
    if abi >= 6:
        attributes += struct.pack("Q", _SCOPE_ABSTRACT_SOCKETS)
    try:
        return kernel.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    except OSError as error:
        detail = f"Landlock is switched off: {error.strerror}."
        raise SandboxError("sandbox_unsupported", detail) from None


def _add_rule(ruleset: int, path: Path) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = _EXECUTE | _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", allowed, handle)
        kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(handle)
