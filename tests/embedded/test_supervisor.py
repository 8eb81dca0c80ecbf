import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedded import descendants

READY = "import time; print('up'); time.sleep(600)"
# With a grandchild in a session of its own, as a model server is started.
PARENT = (
    "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True);" + READY
)


class Run:
    """A running supervisor of trivial parts."""

    def __init__(self, folder: Path, parts: list[dict]) -> None:
        self.folder = folder
        (folder / "parts.json").write_text(json.dumps(parts))
        self.output = folder / "output.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.embedded.parts", str(folder)],
                stdout=output,
                stderr=output,
            )

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str, timeout_s: float = 20) -> str:
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text(), re.MULTILINE)):
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)
        return found[0]

    def pids(self) -> list[int]:
        return descendants.list_descendants(self.process.pid)

    def pid_of(self, name: str) -> int:
        """By the working folder and the log that its output goes to."""
        for pid in self.pids():
            log = Path(f"/proc/{pid}/fd/1").readlink()
            is_sleep = Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
            if log.name == f"{name}.log" and not is_sleep:
                return pid
        raise AssertionError(name)

    @property
    def supervisor_pid(self) -> int:
        (pid,) = descendants.list_children(self.process.pid)
        return pid


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_gone(pids: list[int], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while left := alive(pids):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    runs = []

    def start_one(*parts: dict) -> Run:
        runs.append(Run(tmp_path, list(parts)))
        return runs[-1]

    yield start_one
    for run in runs:
        pids = [run.process.pid, *run.pids()]
        for pid in alive(pids):
            os.kill(pid, signal.SIGKILL)
        run.process.wait()


def test_parts_start_in_order_and_stop_in_reverse(start):
    run = start(
        {"name": "first", "code": READY},
        {"name": "task", "code": "print('> made')", "after": ["first"], "task": True},
        {"name": "last", "code": READY, "after": ["task"]},
    )
    run.wait_for("ALL READY")
    pids = run.pids()
    assert len(pids) == 3  # The supervisor and two parts.

    run.process.send_signal(signal.SIGINT)

    assert run.process.wait(15) == 0
    assert alive(pids) == []
    lines = [" ".join(line.split()) for line in run.text().splitlines()]
    assert [line for line in lines if not line.startswith("task starting")] == [
        "first starting",
        "first ready",
        "made",
        "task done",
        "last starting",
        "last ready",
        "ALL READY",
        "last stopping",
        "last stopped",
        "first stopping",
        "first stopped",
    ]


def test_a_killed_part_comes_back_and_the_others_stay(start):
    run = start({"name": "a", "code": PARENT}, {"name": "b", "code": READY})
    run.wait_for("ALL READY")
    before, other = run.pid_of("a"), run.pid_of("b")
    old = descendants.list_descendants(before)
    assert len(old) == 1

    os.kill(before, signal.SIGKILL)

    run.wait_for(r"^a +restarting +it ended \(SIGKILL\), again in 0.5 s$")
    run.wait_for(r"^a +ready +restarts 1$")
    assert run.pid_of("a") != before
    assert run.pid_of("b") == other
    # Its grandchild had a session of its own, and is gone all the same.
    wait_gone(old)


def test_nothing_is_left_after_ctrl_c_in_the_middle_of_the_start(start):
    run = start(
        {"name": "slow", "code": "import time; time.sleep(600)"},
        {"name": "next", "code": READY, "after": ["slow"]},
    )
    run.wait_for("slow +starting")
    pids = run.pids()

    run.process.send_signal(signal.SIGINT)

    assert run.process.wait(15) == 0
    assert alive(pids) == []
    assert "ALL READY" not in run.text()
    assert "next       starting" not in run.text()


def test_a_second_signal_does_not_wait(start):
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN);" + READY
    run = start({"name": "a", "code": stubborn, "stop_timeout_s": 600})
    run.wait_for("ALL READY")
    pids = run.pids()
    run.process.send_signal(signal.SIGINT)
    run.wait_for("a +stopping")

    run.process.send_signal(signal.SIGINT)

    assert run.process.wait(10) == 0
    assert alive(pids) == []


def test_grandchildren_in_other_sessions_end_with_the_run(start):
    run = start({"name": "a", "code": PARENT})
    run.wait_for("ALL READY")
    pids = run.pids()
    assert len(pids) == 3

    run.process.send_signal(signal.SIGTERM)

    assert run.process.wait(15) == 0
    assert alive(pids) == []


def test_nothing_outlives_a_killed_supervisor(start):
    run = start({"name": "a", "code": PARENT}, {"name": "b", "code": READY})
    run.wait_for("ALL READY")
    pids = run.pids()

    os.kill(run.supervisor_pid, signal.SIGKILL)

    assert run.process.wait(20) == 1
    assert alive(pids) == []


def test_nothing_outlives_a_killed_guard(start):
    run = start({"name": "a", "code": PARENT}, {"name": "b", "code": READY})
    run.wait_for("ALL READY")
    pids = run.pids()

    run.process.kill()

    assert run.process.wait(5) == -signal.SIGKILL
    wait_gone(pids)
    assert "b          stopped" in run.text()


def test_what_cannot_start_ends_the_run_with_its_last_words(start):
    run = start(
        {"name": "good", "code": READY},
        {"name": "bad", "code": "raise SystemExit('no such thing')"},
    )
    pids = run.pids()

    assert run.process.wait(20) == 1
    assert "FAILED bad: no such thing" in run.text()
    assert run.text().count("bad        starting") == 3
    assert alive(pids) == []


def test_a_failed_task_ends_the_run_at_once(start):
    run = start({"name": "task", "code": "raise SystemExit('wrong')", "task": True})

    assert run.process.wait(20) == 1
    assert "FAILED task: wrong" in run.text()
    # A line of its own each time; one with the last words of the task may follow.
    assert run.text().splitlines().count("task       starting") == 1
