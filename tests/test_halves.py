"""How all tests are run: two halves, and again what failed only beside the other one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bin" / "halves.sh"
PASSES = "def test_one(): pass\n"
FAILS = "def test_one(): assert False\n"
# Fails the first time, as one that was late does, and passes the second.
LATE = """
from pathlib import Path
def test_one():
    mark = Path(__file__).with_suffix(".mark")
    is_late = not mark.exists()
    mark.touch()
    assert not is_late
"""
BREAKS = "import nothing_of_this_name\n"


@pytest.mark.parametrize(
    ("first", "second", "chaos", "status", "said"),
    [
        (PASSES, PASSES, PASSES, 0, ""),
        (FAILS, PASSES, PASSES, 1, "what failed in the first half"),
        (PASSES, FAILS, PASSES, 1, "again, alone: what failed in the second half"),
        (LATE, PASSES, PASSES, 0, "FAILED tests/first/test_one.py::test_one"),
        (PASSES, LATE, PASSES, 0, "FAILED tests/second/test_one.py::test_one"),
        (LATE, LATE, PASSES, 0, "passed; these did so only with nothing beside them"),
        (LATE, FAILS, PASSES, 1, "again, alone: what failed in the first half"),
        # A race is not tried twice.
        (PASSES, PASSES, LATE, 1, "what failed in the first half"),
        (BREAKS, PASSES, PASSES, 2, "what failed in the first half"),
        (PASSES, BREAKS, PASSES, 2, "nothing_of_this_name"),
    ],
    ids=[
        *("all", "first fails", "second fails", "first late", "second late", "both late"),
        *("late and fails", "race", "first broken", "second broken"),
    ],
)
def test_status_is_that_of_the_tests(tmp_path, first, second, chaos, status, said):
    for name, text in {"first": first, "second": second, "chaos": chaos}.items():
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        (folder / "test_one.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    done = subprocess.run(
        [SCRIPT, "tests/second"],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout
