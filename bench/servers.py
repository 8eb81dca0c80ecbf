"""Servers that are started beside the product, to be measured in the same run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Request
from embedded import ports
from embedded.environment import ROOT

LISTENS_WITHIN_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers the request, and the processes whose time that takes."""

    name: str
    request: Request
    pids: Sequence[int]


def install(name: str) -> Path:
    """The Python that has what `requirements-<name>.txt` pins; installed at the first call.

    Packages of other products would not go together with ours, so each has an environment of
    its own below var/bench.
    """
    folder = ROOT / "var" / "bench" / name
    python = folder / "bin" / "python"
    wanted = Path(__file__).with_name(f"requirements-{name}.txt")
    # Written last: what was interrupted, or is of another version, is made anew.
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        print(f"installing {name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", wanted], check=True)
        shutil.copyfile(wanted, installed)
    return python


def choose_address() -> tuple[str, str]:
    """The URL of a free port of this machine, and the port alone."""
    port = ports.choose()
    return f"http://127.0.0.1:{port}", str(port)


@contextlib.contextmanager
def serve(
    *command: str, url: str, env: dict[str, str], python: str = sys.executable
) -> Iterator[int]:
    """Run another server beside the product until the block ends; yields its pid."""
    # Our own output holds the figures and nothing else.
    process = subprocess.Popen([python, "-m", *command], env=env, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + LISTENS_WITHIN_S
        while not ports.is_listening(int(url.rpartition(":")[2])):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not come up")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
