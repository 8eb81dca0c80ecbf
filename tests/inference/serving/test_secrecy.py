"""Where plaintext of a served model is looked for, and must not be found."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.inference.artifact.onnx_models import linear
from tests.inference.serving.sealed import seal
from tests.onlookers import IS_ROOT, check_closed

ROWS = 100_000
INTERFACE = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [ROWS]}],
    "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [4]}],
    "batch": {"max_size": 4, "leading_axis": True},
}


@pytest.fixture
def canary() -> bytes:
    """Bytes that exist nowhere else, as finite numbers."""
    return (
        np.random.default_rng(int.from_bytes(os.urandom(8), "big")).random(16, np.float32).tobytes()
    )


@pytest.fixture
def served(triton, load, parts, canary) -> tuple[str, int]:
    """A model that holds the canary in its weights: its name and its process."""
    weights = np.zeros((ROWS, 4), np.float32)
    weights[5000:5004] = np.frombuffer(canary, np.float32).reshape(4, 4)
    sealed = seal(
        parts, {"model.onnx": ("onnx", linear(weights))}, runtime="onnx", interface=INTERFACE
    )
    name, peer = load(sealed)
    x = np.zeros((1, ROWS), np.float32)
    x[0, 5000] = 1
    # It is the real model that runs.
    expected = np.frombuffer(canary, np.float32)[:4]
    assert np.array_equal(triton.infer(name, x=x)["y"][0], expected)
    return name, peer.pid


def files_below(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path


def find_canary(canary: bytes, *folders: Path) -> list[Path]:
    found = []
    for path in files_below(*folders):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if canary in content:
            found.append(path)
    return found


def places(triton, parts: Path) -> list[Path]:
    recent = [
        path
        for path in Path(tempfile.gettempdir()).iterdir()
        if path.is_dir() and path.name.startswith(("folder", "python_env", "strongroom-"))
    ]
    return [Path("/dev/shm"), triton.config.work_dir, parts, *recent]


def test_weights_are_in_no_file(triton, served, parts, canary):
    assert find_canary(canary, *places(triton, parts)) == []
    assert canary.hex() not in triton.log()


def test_the_search_would_find_them(triton, served, parts, canary):
    planted = triton.config.work_dir / "tmp/planted"
    planted.write_bytes(b"x" * 1000 + canary + b"x")

    assert find_canary(canary, *places(triton, parts)) == [planted]
    planted.unlink()


def test_no_library_keeps_notes_about_the_model(triton, served, tmp_path):
    home = triton.config.work_dir / "empty"
    assert list(home.rglob("*")) == []

    # Left to itself, onnxruntime begins a queue of reports as soon as it is imported.
    code = "import sys; sys.path[:0] = sys.argv[1:]; import onnxruntime"
    subprocess.run([sys.executable, "-c", code, *sys.path], env={"HOME": str(tmp_path)}, check=True)
    assert [one.name for one in tmp_path.rglob("*.db")] == ["onnxruntime.db"]


def test_process_is_confined_as_the_kernel_sees_it(served):
    _, pid = served
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )

    assert status["Seccomp"].strip() == "2"
    assert status["NoNewPrivs"].strip() == "1"
    # Locking memory is the one right that may be left.
    assert int(status["CapEff"], 16) & ~(1 << 14) == 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        assert "Seccomp:\t2" in lines
        assert (
            int(next(one for one in lines if one.startswith("CapEff")).split()[1], 16) & ~(1 << 14)
            == 0
        )


def test_other_users_cannot_read_its_memory(served):
    _, pid = served

    check_closed(pid)


def test_nothing_of_the_load_is_left_open(served):
    _, pid = served
    process = Path(f"/proc/{pid}")
    if not IS_ROOT:
        # The kernel does not even show its descriptors to us.
        with pytest.raises(PermissionError):
            list((process / "fd").iterdir())
        return
    opened = [str(one.readlink()) for one in (process / "fd").iterdir()]
    mapped = (process / "maps").read_text()

    assert not [one for one in opened if one.startswith(("socket:", "/memfd"))]
    assert not [one for one in opened if "/parts/" in one or one.startswith("/tmp/strongroom")]
    assert "/parts/" not in mapped
    assert "memfd" not in mapped
    assert str((process / "cwd").readlink()).endswith(" (deleted)")
    limits = (process / "limits").read_text()
    [core] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


def test_unloading_ends_the_process(triton, parts, canary):
    sealed = seal(
        parts,
        {"model.onnx": ("onnx", linear(np.ones((ROWS, 4), np.float32)))},
        runtime="onnx",
        interface=INTERFACE,
    )
    name, peer = triton.prepare(sealed)
    with peer:
        triton.load(name)

    triton.unload(name)

    # Triton says that the model is gone a moment before it has buried its process.
    deadline = time.monotonic() + 30
    while Path(f"/proc/{peer.pid}").exists():
        assert time.monotonic() < deadline, "the process lives"
        time.sleep(0.05)
