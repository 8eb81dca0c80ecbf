from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference.triton import processes
from inference.triton.processes import REGION_PREFIX, sweep_shared_memory


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_descent_is_followed_over_generations(child):
    script = (
        "import subprocess,sys;p=subprocess.Popen(['sleep','60']);print(p.pid,flush=True);p.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        grandchild = int(parent.stdout.readline())
        assert processes.is_descendant(grandchild, parent.pid)
        assert processes.is_descendant(grandchild, os.getpid())
        assert not processes.is_descendant(grandchild, child.pid)
        assert not processes.is_descendant(os.getpid(), os.getpid())
    finally:
        os.kill(grandchild, 9)
        parent.wait()
        parent.stdout.close()


def test_what_is_said_of_a_process(child):
    assert processes.is_alive(child.pid)
    assert processes.find_parent_pid(child.pid) == os.getpid()
    assert processes.read_command(child.pid) == ["sleep", "60"]
    assert processes.command_name(child.pid) == "sleep"
    assert processes.find_program(child.pid)
    assert processes.resident_bytes(child.pid) > 0
    assert processes.find_start_ticks(child.pid) > 0


def test_a_process_that_is_gone_is_no_error(child):
    child.kill()
    # A zombie until it is waited for.
    deadline = time.monotonic() + 5
    while processes.is_alive(child.pid):
        assert time.monotonic() < deadline
    child.wait()

    assert not processes.is_alive(child.pid)
    assert processes.find_parent_pid(child.pid) is None
    assert processes.find_start_ticks(child.pid) is None
    assert processes.read_command(child.pid) == []
    assert processes.command_name(child.pid) == ""
    assert processes.find_program(child.pid) is None
    assert processes.resident_bytes(child.pid) == 0


def region(folder: Path, name: str) -> Path:
    path = folder / f"{REGION_PREFIX}{name}"
    path.write_bytes(bytes(4096))
    return path


def test_the_sweep_takes_what_nobody_maps(tmp_path):
    stale, used, other = region(tmp_path, "stale"), region(tmp_path, "used"), tmp_path / "other"
    other.write_bytes(b"x")

    with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        swept = sweep_shared_memory(folder=tmp_path)

    assert swept == [stale]
    assert sorted(tmp_path.iterdir()) == sorted([other, used])


def test_the_sweep_leaves_a_region_that_is_just_being_made(tmp_path, monkeypatch):
    young = region(tmp_path, "young")
    mapped = []

    def map_meanwhile(_):
        with young.open("r+b") as file:
            mapped.append(mmap.mmap(file.fileno(), 4096))

    monkeypatch.setattr(processes.time, "sleep", map_meanwhile)

    assert sweep_shared_memory(folder=tmp_path) == []

    assert young.exists()
    mapped[0].close()
    # The control: nobody maps it now, so it goes.
    monkeypatch.setattr(processes.time, "sleep", lambda _: None)
    assert sweep_shared_memory(folder=tmp_path) == [young]
