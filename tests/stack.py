"""The whole product, started once for the run by `bin/up`, as a person starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from embedded import descendants, ports
from embedded.environment import ROOT

# Four models are built, sealed, loaded and measured; two cores may be busy with other tests.
ANY_PORTS = ("--web-port=0", "--gateway-port=0", "--grpc-port=0")
START_TIMEOUT_S = 1500.0
STOP_TIMEOUT_S = 120.0
_PART_TIMEOUT_S = 120.0
# Other test runs on the machine make and unmake regions; ours are gone at once.
_SWEEP_TIMEOUT_S = 10.0


@dataclass
class Stack:
    """A running product.

    Args:
        home: Its home.
        process: `bin/up`.
        output: What it printed so far is in this file.
        foreign_memory: What others, killed, had left in shared memory before it was started.
    """

    home: Path
    process: subprocess.Popen[bytes]
    output: Path
    foreign_memory: frozenset[Path] = frozenset()

    @cached_property
    def demo(self) -> dict[str, Any]:
        """demo.json: addresses, logins, models and nodes."""
        return json.loads((self.home / "demo.json").read_text())

    @property
    def pids(self) -> list[int]:
        """Every process of it."""
        return [self.process.pid, *descendants.list_descendants(self.process.pid)]

    def pid_of(self, part: str) -> int:
        """The process of a part (web, gateway, node, ...): the one that leads its session."""
        log = self.home / "logs" / f"{part}.log"
        for pid in self.pids:
            try:
                is_part = os.getsid(pid) == pid and Path(f"/proc/{pid}/fd/1").readlink() == log
            except OSError:
                continue
            if is_part:
                return pid
        raise LookupError(part)

    def wait_ready(self, part: str, after_pid: int) -> int:
        """Wait until a part that had `after_pid` runs again and is ready; its new pid."""
        deadline = time.monotonic() + _PART_TIMEOUT_S
        while True:
            lines = [line for line in self.text().splitlines() if line.startswith(f"{part} ")]
            try:
                pid = self.pid_of(part)
            except LookupError:
                pid = after_pid
            if pid != after_pid and lines[-1].split()[1] == "ready":
                return pid
            assert time.monotonic() < deadline, self.text()[-2000:]
            time.sleep(0.1)

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text()


def start(folder: Path) -> Stack:
    """Start the product in a fresh home; returns when its demo is ready."""
    home = folder / "home"
    output = folder / "output.txt"
    foreign_memory = frozenset(list_shared_memory())
    command = [ROOT / "bin" / "up", "--home", home, *ANY_PORTS]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--plain"], stdout=file, stderr=file, env=environment(), cwd=folder
        )
    stack = Stack(home, process, output, foreign_memory)
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ctrl-C stops everything." not in stack.text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise RuntimeError(f"bin/up did not come up:\n{stack.text()[-4000:]}")
        time.sleep(0.2)
    return stack


def stop(stack: Stack) -> None:
    """Press Ctrl-C, and see to it that nothing is left."""
    pids = stack.pids
    listening = [port for port in chosen_ports(stack) if ports.is_listening(port)]
    assert len(listening) >= 8, listening

    stack.process.send_signal(signal.SIGINT)
    code = stack.process.wait(STOP_TIMEOUT_S)

    assert code == 0, stack.text()[-2000:]
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert [port for port in listening if not ports.is_free(port)] == []
    assert [path for path in stack.home.rglob("*") if path.is_socket()] == []
    deadline = time.monotonic() + _SWEEP_TIMEOUT_S
    while left := set(list_shared_memory()) - stack.foreign_memory:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def chosen_ports(stack: Stack) -> list[int]:
    """Of the inner parts, the site and the gateway."""
    inner = json.loads((stack.home / "ports.json").read_text()).values()
    outer = (stack.demo["web_url"], stack.demo["gateway_url"])
    return [*inner, *(int(url.rpartition(":")[2]) for url in outer)]


def list_shared_memory() -> list[Path]:
    """Regions that nobody maps any more; those of other test runs are mapped."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            mapped += maps.read_text(errors="replace")
        except OSError:
            continue
    regions = Path("/dev/shm").glob("triton_python_backend_shm_region_*")
    return [path for path in regions if path.name not in mapped]


def environment() -> dict[str, str]:
    """A person's environment: nothing of the test run's own servers."""
    ours = ("STRONGROOM_", "DJANGO_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
