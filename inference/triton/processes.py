"""Read /proc: who descends from whom, and which shared memory is still mapped.

The loader makes itself undumpable, after which only root may read its `exe`, `maps` and
`fd`. `stat` and `cmdline` stay readable, so ancestry is what identifies a stub.

Source: proc(5); python_backend r24.10, pb_stub.cc (arguments of a stub).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's name, not a temporary folder
STUB_PROGRAM = "triton_python_backend_stub"
REGION_PREFIX = "triton_python_backend_shm_region_"
# Far longer than a server takes from making a region to mapping it.
_MAPPING_S = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def list_pids() -> list[int]:
    """Every process that this one can see."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def find_parent_pid(pid: int) -> int | None:
    """The parent's pid, None if the process is gone."""
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else None


def find_start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid, its identity."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def is_descendant(pid: int, ancestor_pid: int) -> bool:
    """Whether `pid` was started by `ancestor_pid`, directly or through others."""
    current: int | None = pid
    while current and current > 1:
        current = find_parent_pid(current)
        if current == ancestor_pid:
            return True
    return False


def kill_descendant(pid: int, ancestor_pid: int | None) -> bool:
    """Kill a process that `ancestor_pid` started; false if there is none.

    The number alone may have gone to a stranger by now, who is left alone.
    """
    if not (pid and ancestor_pid and is_descendant(pid, ancestor_pid)):
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    return True


def read_command(pid: int) -> list[str]:
    """The command line; empty for a process that is gone or is the kernel's."""
    try:
        data = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in data.rstrip(b"\0").split(b"\0")]


def find_program(pid: int) -> str | None:
    """The name of the program file, None where the kernel does not tell."""
    try:
        target = os.readlink(PROC / str(pid) / "exe")  # noqa: PTH115 - "(deleted)" is kept
    except OSError:
        return None
    return Path(target.removesuffix(" (deleted)")).name


def command_name(pid: int) -> str:
    """The name that the process was started under; empty if it is gone."""
    command = read_command(pid)
    return Path(command[0]).name if command else ""


def list_stubs(server_pid: int) -> list[int]:
    """The python-backend stubs below a tritonserver, in order of their pids."""
    return sorted(
        pid
        for pid in list_pids()
        if command_name(pid) == STUB_PROGRAM and is_descendant(pid, server_pid)
    )


def resident_bytes(pid: int) -> int:
    """Memory of a process that lies in RAM; 0 if it is gone."""
    try:
        fields = (PROC / str(pid) / "statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE_BYTES


def sweep_shared_memory(*, folder: Path = SHARED_MEMORY) -> list[Path]:
    """Delete the python backend's regions that no process maps any more.

    A killed tritonserver leaves its regions behind, with the last requests in them.
    Regions of other users and of living servers are left alone. A region is only taken
    if two looks, a moment apart, find nobody who maps it: between the making and the
    mapping of a region its own server does not map it either.

    Args:
        folder: Where shared memory is mounted.

    Returns:
        What was deleted.
    """
    unmapped = _find_unmapped(list(folder.glob(f"{REGION_PREFIX}*")))
    if unmapped:
        time.sleep(_MAPPING_S)
        unmapped = _find_unmapped(unmapped)
    for path in unmapped:
        path.unlink(missing_ok=True)
    return unmapped


def _find_unmapped(regions: list[Path]) -> list[Path]:
    """Those that are ours and that nobody maps; the regions were listed before this look."""
    own = []
    for path in regions:
        with suppress(OSError):
            if path.stat().st_uid == os.geteuid():
                own.append(path)
    mapped = set(_mapped_regions()) if own else set()
    return [path for path in own if path.name not in mapped]


def _mapped_regions() -> Iterator[str]:
    for pid in list_pids():
        # Stubs are unreadable here, but their tritonserver maps the same regions.
        with suppress(OSError):
            for line in (PROC / str(pid) / "maps").read_text(errors="replace").splitlines():
                if REGION_PREFIX in line:
                    yield REGION_PREFIX + line.split(REGION_PREFIX, 1)[1].split(" ")[0]


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold spaces."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
