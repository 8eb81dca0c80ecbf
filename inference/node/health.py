"""What a node tells of its machine."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from inference.serving import kernel, landlock, memory, sandbox, seccomp
from inference.serving.errors import SandboxError

_MIB = 1024 * 1024
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
_CORE_PATTERN_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True)
class SandboxSupport:
    """What can confine the serving processes of this machine, seen from outside of them."""

    landlock_abi: int
    seccomp: bool
    # How much of a process may be kept out of swap: `full`, `partial` (weights), `none`.
    mlock: str
    swap: bool
    # Where the kernel would write memory of a process that crashes; ours never dump.
    core_pattern: str
    # Chosen for development: `seccomp-only`.
    mode: str

    def to_json(self) -> dict[str, Any]:
        """The form in the node's report."""
        return {
            "landlock_abi": self.landlock_abi,
            "seccomp": self.seccomp,
            "mlock": self.mlock,
            "swap": self.swap,
            "core_pattern": self.core_pattern,
            "mode": self.mode or "full",
        }

    def check_demand(self, demanded: str | None) -> None:
        """Refuse a version that wants more than there is, before anything of it is fetched.

        Its loader looks once more, and for itself.

        Raises:
            SandboxError: `landlock_required`.
        """
        sandbox.check_demand(demanded, self.mode, landlock_abi=self.landlock_abi)


def probe_sandbox(environment: Mapping[str, str]) -> SandboxSupport:
    """Look once, when the node starts.

    Args:
        environment: Of the node, which its serving processes inherit.
    """
    core_pattern = ""
    with suppress(OSError):
        core_pattern = _CORE_PATTERN.read_text().strip()[:_CORE_PATTERN_LENGTH_MAX]
    try:
        mode = sandbox.read_mode(environment)
    except SandboxError as error:
        # Every load will be refused with this code; the node runs, so that somebody sees it.
        mode = error.reason_code
    return SandboxSupport(
        landlock_abi=landlock.find_abi(),
        seccomp=seccomp.is_supported(),
        mlock=_find_lock(),
        swap=memory.has_swap(),
        core_pattern=core_pattern,
        mode=mode,
    )


def _find_lock() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    is_unlimited = resource.RLIM_INFINITY in (soft, hard)
    if is_unlimited or kernel.has_capability(kernel.CAP_IPC_LOCK):
        return "full"
    return "partial" if hard else "none"


def describe_machine(node_dir: Path) -> dict[str, Any]:
    """Cores, memory and disk; rounded, so that a report does not differ for nothing."""
    memory = psutil.virtual_memory()
    return {
        "hostname": platform.node()[:100],
        "cpu_count": os.cpu_count() or 1,
        "memory_total_bytes": memory.total,
        "memory_available_bytes": memory.available // (64 * _MIB) * (64 * _MIB),
        "disk_free_bytes": shutil.disk_usage(node_dir).free // (256 * _MIB) * (256 * _MIB),
    }
