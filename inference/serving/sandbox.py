"""Confine this process before it may see a key.

In order: no core dumps and no tracing (`harden`), then after the last import no rights
of root's, the filter on system calls and the rules on files (`confine`), then an attempt
at everything that must fail (`probe`). Only a process whose attempts all failed asks for
the key.

What stays open is listed in docs/sealing.md: the shared memory that Triton passes
tensors through, and whatever the kernel itself gets wrong.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.serving import kernel, landlock, probe, seccomp
from inference.serving.errors import SandboxError
from inference.serving.threads import call_in_all

SECCOMP_ONLY = "seccomp-only"
_CAPSET = 126
_CAPABILITY_VERSION_3 = 0x20080522

# What the interpreter and the libraries read while they run. Of /etc only the cache of
# the dynamic loader and the time zone; /proc for their own state, of others Landlock
# itself shows what is public.
_SYSTEM_PATHS = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/urandom",
)


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What confines the process, for the replica's report."""

    landlock_abi: int
    threads: int
    closed_sockets: int
    probe: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The form in the report."""
        return {
            "landlock_abi": self.landlock_abi,
            "seccomp": True,
            "threads": self.threads,
            "closed_sockets": self.closed_sockets,
            "probe": self.probe,
        }


def harden() -> None:
    """Forbid core dumps, tracing, and gaining rights through programs; needs no support.

    Raises:
        SandboxError: `sandbox_unsupported` if the kernel refuses.
    """
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _raise_locked_memory()
    except (OSError, ValueError) as error:
        raise SandboxError("sandbox_unsupported", f"Cannot harden the process: {error}.") from None


def _raise_locked_memory() -> None:
    """Allow as much locked memory as possible, while there may be a right to."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, hard):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return


def confine(*, readable: Sequence[Path], keep_fds: Iterable[int], mode: str = "") -> SandboxReport:
    """Close the sandbox and try it. There is no way back.

    Args:
        readable: Files and folders that may be read besides the system's.
        keep_fds: Sockets that stay open; others that were inherited are closed.
        mode: `seccomp-only` where a development machine's kernel has no Landlock.

    Raises:
        SandboxError: `sandbox_unsupported` or `sandbox_incomplete`.
    """
    closed = close_sockets(keep=frozenset(keep_fds))
    threads = drop_capabilities()
    seccomp.install()
    abi = landlock.find_abi()
    needs_landlock = bool(abi) or mode != SECCOMP_ONLY
    if needs_landlock:
        threads = landlock.restrict([*map(Path, _SYSTEM_PATHS), *readable])
    outcomes = probe.run()
    _check(outcomes, needs_landlock=needs_landlock)
    return SandboxReport(abi, threads, closed, outcomes)


def drop_capabilities() -> int:
    """Give up capabilities in every thread; returns how many threads there are.

    Landlock alone does not keep root from reading the environment of other processes:
    since Linux 6.13, CAP_PERFMON goes around the check on tracing. Only the right to
    lock memory stays, where it was there.

    Raises:
        SandboxError: `sandbox_incomplete`.
    """
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    kept = 1 << kernel.CAP_IPC_LOCK if kernel.has_capability(kernel.CAP_IPC_LOCK) else 0
    # Effective, permitted, inheritable; the lower half, then the upper.
    sets = ctypes.create_string_buffer(struct.pack("6I", kept, kept, 0, 0, 0, 0), 24)
    try:
        return call_in_all(_CAPSET, ctypes.addressof(header), ctypes.addressof(sets), what="capset")
    except OSError as error:
        detail = f"Capabilities could not be dropped: {error.strerror}."
        raise SandboxError("sandbox_incomplete", detail) from None


def read_mode(environment: Mapping[str, str]) -> str:
    """The mode that the environment asks for.

    Raises:
        SandboxError: `sandbox_refused` for a weaker sandbox outside of development, or
            an unknown mode.
    """
    mode = environment.get("STRONGROOM_SANDBOX", "")
    if mode not in ("", SECCOMP_ONLY):
        raise SandboxError("sandbox_refused", "STRONGROOM_SANDBOX has an unknown value.")
    if mode and environment.get("STRONGROOM_ENV") != "development":
        detail = "A weaker sandbox is allowed in development only."
        raise SandboxError("sandbox_refused", detail)
    return mode


def check_demand(demanded: str | None, mode: str, *, landlock_abi: int | None = None) -> None:
    """Refuse a version whose creator wants more walls than this machine has.

    The demand stands in the signed manifest. It is looked at before anything is asked for.

    Args:
        demanded: `landlock`, or None for no demand.
        mode: From `read_mode`.
        landlock_abi: What was found earlier; None to look now.

    Raises:
        SandboxError: `landlock_required`.
    """
    abi = landlock.find_abi() if landlock_abi is None else landlock_abi
    if demanded is None or (mode != SECCOMP_ONLY and abi):
        return
    why = "was told to do without" if mode == SECCOMP_ONLY else "has none"
    detail = f"The version demands a sandbox with Landlock; this node {why}."
    raise SandboxError("landlock_required", detail)


def find_readable(root: Path) -> list[Path]:
    """Folders that Python itself needs, without the root of the project.

    A development machine keeps its state below the root, the key file included: only
    the folders with our code are readable there.

    Args:
        root: The folder that holds the packages.
    """
    roots = {root, root / "sdk"}
    found = [root / "inference", root / "sdk/strongroom"]
    for entry in sys.path:
        path = Path(entry)
        if entry and path.is_absolute() and path not in roots:
            found.append(path)
    found += [Path(sys.base_prefix), *_library_folders()]
    # A folder that holds the project, or is the whole file system, opens too much.
    return [path for path in found if not root.is_relative_to(path)]


def close_sockets(*, keep: frozenset[int]) -> int:
    """Close sockets that were inherited from the server; returns how many there were."""
    closed = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - /proc
        with suppress(OSError):
            handle = int(name)
            if handle not in keep and stat.S_ISSOCK(os.fstat(handle).st_mode):
                os.close(handle)
                closed += 1
    return closed


def _library_folders() -> list[Path]:
    text = os.environ.get("LD_LIBRARY_PATH", "")
    return [Path(one) for one in text.split(os.pathsep) if one.startswith("/")]


def _check(outcomes: dict[str, str], *, needs_landlock: bool) -> None:
    open_doors = [
        name
        for name, outcome in outcomes.items()
        if outcome != probe.REFUSED and (needs_landlock or name not in probe.LANDLOCK_PROBES)
    ]
    if open_doors:
        detail = f"Not refused on {platform.release()}: {', '.join(open_doors)}."
        raise SandboxError("sandbox_incomplete", detail)
