"""`bin/up --check`, twice on one home, and once with answers that must be found wrong."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedded.environment import ROOT
from tests.stack import ANY_PORTS, START_TIMEOUT_S, environment

pytestmark = pytest.mark.timeout(2 * START_TIMEOUT_S)
UP = [ROOT / "bin/up", "--check", "--plain", *ANY_PORTS]
MODELS = [
    "demo/digits",
    "demo/file-type",
    "demo/sentence-embeddings",
    "demo/speech",
    "demo/smollm2",
]


@dataclass(frozen=True)
class Check:
    """One run that has ended.

    Args:
        code: Its exit code.
        lines: What it printed.
        steps: What the seeding wrote into its own log.
        state: The home's `seed.json` afterwards.
        duration_s: From start to end.
    """

    code: int
    lines: list[str]
    steps: list[str]
    state: dict
    duration_s: float

    def verdicts(self) -> list[tuple[str, str]]:
        """(right or WRONG, model), in the order of the lines."""
        words = [line.split() for line in self.lines if line.startswith(("right ", "WRONG "))]
        return [(verdict, model.rstrip(":")) for verdict, model, *_ in words]


def check(home: Path) -> Check:
    log = home / "logs" / "demo.log"
    begin = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    done = subprocess.run(
        [*UP, "--home", home],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    duration_s = time.monotonic() - started
    with log.open() as file:
        file.seek(begin)
        steps = file.read().splitlines()
    state = json.loads((home / "seed.json").read_text())
    return Check(done.returncode, done.stdout.splitlines(), steps, state, duration_s)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("check") / "home"


@pytest.fixture(scope="module")
def first(home):
    return check(home)


def test_all_are_right(first, home):
    assert (first.code, first.verdicts()) == (0, [("right", one) for one in MODELS]), first.lines
    assert sorted(one for one in first.steps if one.startswith("pushing")) == [
        f"pushing {one}" for one in sorted(MODELS)
    ]


def test_it_leaves_nothing_running(first, home):
    running = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(home).encode() in read_quietly(path)
    ]

    assert running == []
    assert [path for path in home.rglob("*") if path.is_socket()] == []
    assert first.code == 0


def test_the_next_start_installs_and_seeds_nothing(first, home):
    second = check(home)

    assert (second.code, second.verdicts()) == (0, first.verdicts()), second.lines
    assert [line for line in second.lines if "nstall" in line] == []
    done_before = ("building", "pushing", "onboarding", "making", "buying")
    assert [step for step in second.steps if step.startswith(done_before)] == []
    assert second.steps  # The log is the one that is read.
    assert second.state == first.state
    # Minutes of work are not done again; a busy machine slows both.
    assert second.duration_s < first.duration_s


def test_a_wrong_answer_is_its_result(first, home):
    place = home / "seed.json"
    state = json.loads(place.read_text())
    state["models"]["demo/digits"]["facts"]["label"] = "9"
    state["models"]["demo/smollm2"]["facts"]["contains"] = "Reykjavik"
    place.write_text(json.dumps(state))

    wrong = check(home)

    assert wrong.code == 1
    verdicts = ("WRONG", "right", "right", "right", "WRONG")
    assert wrong.verdicts() == list(zip(verdicts, MODELS, strict=True)), wrong.lines


def read_quietly(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
