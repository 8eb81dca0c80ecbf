"""Another user of the node's machine tries to read what a serving process holds."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from inference.serving import kernel
from tests.inference.serving.children import ROOT, run_child
from tests.inference.serving.test_secrecy import (  # noqa: F401 - the fixtures
    canary,
    find_canary,
    served,
)
from tests.onlookers import IS_ROOT, check_closed

USER = "nobody" if IS_ROOT else None
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
# A process that holds a secret: it is put together only there, and the command line has a half.
VICTIM = f"""
import resource, sys
sys.path[:0] = [{str(ROOT)!r}]
from inference.serving import sandbox
secret = bytearray(bytes.fromhex(sys.argv[1])) * 2
if sys.argv[2] == "hardened":
    sandbox.harden()
print("ready", flush=True)
sys.stdin.read()
"""
LOOK = """
import sys
pid, wanted, found = sys.argv[1], bytes.fromhex(sys.argv[2]) * 2, False
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in maps:
        begin, end = (int(one, 16) for one in line.split()[0].split("-"))
        try:
            memory.seek(begin)
            found = found or wanted in memory.read(end - begin)
        except (OSError, ValueError, OverflowError):
            continue
print(found)
"""
CRASH = f"""
import os, resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}]
from inference.serving import sandbox
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
secret = bytearray(bytes.fromhex(sys.argv[1])) * 2
if sys.argv[2] == "hardened":
    sandbox.harden()
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_nobody_looks_into_a_serving_process(served: tuple[str, int]) -> None:  # noqa: F811
    _, pid = served

    check_closed(pid)
    listed = subprocess.run(
        ["/bin/ls", f"/proc/{pid}/fd"], user=USER, capture_output=True, text=True, check=False
    )
    assert (listed.returncode != 0, listed.stdout) == (True, "")
    assert "Permission denied" in listed.stderr


@pytest.mark.parametrize(
    ("_how", "_is_read"), [("hardened", False), ("open", True)], ids=["attack", "control"]
)
def test_its_own_user_does_not_read_its_memory_either(_how: str, _is_read: bool) -> None:
    """Both run as one user: all that stands between is what the process has said of itself."""
    half = os.urandom(16).hex()
    victim = subprocess.Popen(
        ["/usr/bin/python3", "-c", VICTIM, half, _how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=USER,
    )
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        looked = subprocess.run(
            ["/usr/bin/python3", "-c", LOOK, str(victim.pid), half],
            user=USER,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        victim.communicate("")

    if _is_read:
        assert looked.stdout == "True\n", looked.stderr
    else:
        assert (looked.returncode, "PermissionError" in looked.stderr) == (1, True)


def crash(folder: Path, how: str) -> tuple[str, bool]:
    """Let a process that holds a secret crash in a folder; its secret, and if it left a core."""
    half = os.urandom(16).hex()
    process = subprocess.Popen([sys.executable, "-c", CRASH, half, how], cwd=folder)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -os.WTERMSIG(status)
    assert process.returncode == -11
    return half, os.WCOREDUMP(status)


def test_a_crash_leaves_nothing_behind(tmp_path: Path) -> None:
    _, has_core = crash(tmp_path, "hardened")

    assert not has_core
    assert list(tmp_path.iterdir()) == []
    # However cores are written on this machine: the process is marked as one that has none.
    assert run_child(
        """
        import resource
        sandbox.harden()
        answer([kernel.prctl(kernel.PR_GET_DUMPABLE), resource.getrlimit(resource.RLIMIT_CORE)])
        """
    ) == [0, [0, 0]]


def test_an_ordinary_crash_leaves_its_memory(tmp_path: Path) -> None:
    """The control, as far as this machine writes cores at all: into a file here, or to a program.

    Where no process may leave one (a hard limit of zero), an unhardened process is at least
    one that the kernel would dump.
    """
    half, has_core = crash(tmp_path, "open")

    assert kernel.prctl(kernel.PR_GET_DUMPABLE) == 1
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    pattern = CORE_PATTERN.read_text().strip()
    if hard != 0 and not pattern.startswith(("|", "/")):
        [core] = tmp_path.iterdir()
        assert has_core
        assert bytes.fromhex(half) * 2 in core.read_bytes()


def test_nothing_lies_in_shared_memory(served: tuple[str, int], canary: bytes) -> None:  # noqa: F811
    shared = Path("/dev/shm")

    assert find_canary(canary, shared) == []
    # The control.
    planted = shared / f"strongroom-threat-{os.getpid()}"
    planted.write_bytes(b"x" + canary)
    try:
        assert find_canary(canary, shared) == [planted]
    finally:
        planted.unlink()


def test_nothing_is_swapped_out(served: tuple[str, int]) -> None:  # noqa: F811
    """Its memory is locked, or the machine has no swap."""
    _, pid = served
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    has_swap = len(Path("/proc/swaps").read_text().splitlines()) > 1

    assert int(status["VmLck"].split()[0]) > 0 or not has_swap
    # The control: an ordinary process locks nothing. Not this one, which other tests had lock some.
    ordinary = subprocess.check_output(["cat", "/proc/self/status"], text=True)
    assert "VmLck:\t       0 kB" in ordinary
