"""A version that is on its way to review gets there, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import signal
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from embedded import descendants
from tests.chaos import database
from tests.chaos.children import wait_for
from tests.e2e.terminal import Creator
from tests.inference.artifact.onnx_models import WEIGHTS, linear
from tests.stack import Stack

X = [round(0.1 * number, 1) for number in range(16)]
# A node that was killed is believed to be silent after a while, and then has to load anew.
REVIEW_WITHIN_S = 240.0
# The last line of each step's log, which is written together with its success.
LAST_LINES = {
    "verify": "The key broker opens the header of every file.",
    "validate": "The files were opened and checked on node node-1.",
    "load": "The model is loaded on node node-1.",
    "test": "All 1 test vectors are right.",
    "benchmark": "Measured on node node-1.",
}


@dataclass(frozen=True)
class Step:
    """A step's row."""

    name: str
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    log: str
    reason_code: str


class Version:
    """A version as the database has it.

    Args:
        stack: Where it is onboarded.
        version_id: Of the version.
    """

    def __init__(self, stack: Stack, version_id: str) -> None:
        self._home, self._id = stack.home, version_id

    @property
    def state(self) -> str:
        query = "SELECT state FROM marketplace_modelversion WHERE id = %s"
        return str(database.fetch(self._home, query, [self._id])[0][0])

    def list_steps(self) -> list[Step]:
        query = """
            SELECT name, state, started_at, finished_at, log, reason_code
            FROM inference_onboardingstep WHERE version_id = %s ORDER BY position"""
        return [Step(*row) for row in database.fetch(self._home, query, [self._id])]

    def find_present(self) -> str:
        """The name of the step that it has come to."""
        return next(one.name for one in self.list_steps() if one.state != "succeeded")

    def list_succeeded_work(self) -> list[str]:
        """What was done with replicas of it, and succeeded."""
        query = """
            SELECT w.kind FROM inference_replicawork w
            JOIN inference_replica r ON r.id = w.replica_id
            WHERE r.version_id = %s AND w.state = 'succeeded' ORDER BY w.kind"""
        return [row[0] for row in database.fetch(self._home, query, [self._id])]

    def read_certificate(self) -> dict[str, Any]:
        query = "SELECT certificate FROM marketplace_modelversion WHERE id = %s"
        return database.fetch(self._home, query, [self._id])[0][0]

    def wait_in_review(self) -> None:
        def is_there() -> bool:
            state = self.state
            assert state in ("onboarding", "in_review"), (state, self.list_steps())
            steps = {one.name: one.state for one in self.list_steps()}
            return state == "in_review" and steps["review"] == "running"

        wait_for(is_there, "the review", within_s=REVIEW_WITHIN_S)


@pytest.fixture
def push(stack: Stack, tmp_path: Path):
    """Pushes a new small model; its onboarding has just begun."""

    def run() -> Version:
        name = f"linear-{secrets.token_hex(3)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes(linear())
        y = [float(number) for number in X @ WEIGHTS]
        vectors = [{"input": {"x": X}, "expected": {"y": y}, "tolerance": 1e-4}]
        (tmp_path / "vectors.json").write_text(json.dumps(vectors))
        creator = Creator(stack, tmp_path)
        creator.init(name, title="Linear", price="0.001")
        return Version(stack, json.loads(creator.run("push", name, "--json"))["id"])

    return run


def kill(stack: Stack, part: str) -> int:
    """Kill a part and all that it started, at once; returns its pid."""
    pid = stack.pid_of(part)
    for one in [pid, *descendants.list_descendants(pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return pid


def kill_at(stack: Stack, version: Version, part: str, *steps: str) -> None:
    """Kill a part when the onboarding has come to one of some steps, and see it return."""
    present = wait_for(
        lambda: version.find_present() in steps and version.find_present(),
        f"one of {steps}",
        within_s=REVIEW_WITHIN_S,
    )
    pid = kill(stack, part)
    assert version.state == "onboarding", f"it was over before {part} died at {present}"
    stack.wait_ready(part, pid)


def assert_each_step_succeeded_once(version: Version) -> None:
    steps = version.list_steps()
    assert [(one.name, one.state) for one in steps] == [
        *((name, "succeeded") for name in LAST_LINES),
        ("review", "running"),
        ("publish", "pending"),
    ]
    for step, following in pairwise(steps[:6]):
        # A step that was done again would have finished after the next one began.
        assert step.started_at < step.finished_at <= following.started_at
        lines = [line.partition(" ")[2] for line in step.log.splitlines()]
        # What the second scanner said may follow in the same line.
        said = [line for line in lines if line.startswith(LAST_LINES[step.name])]
        assert len(said) == 1, step.log
        assert step.reason_code == ""
    assert version.list_succeeded_work() == ["benchmark", "test"]
    assert version.read_certificate()["benchmark"]["points"]


def test_onboarding_survives_the_death_of_its_worker(stack: Stack, push) -> None:
    version = push()
    for steps in (("verify", "validate", "load"), ("load", "test", "benchmark"), ("benchmark",)):
        kill_at(stack, version, "worker", *steps)

    version.wait_in_review()

    assert_each_step_succeeded_once(version)


def test_onboarding_survives_the_death_of_its_node(stack: Stack, push) -> None:
    version = push()
    kill_at(stack, version, "node", "validate", "load", "test")
    kill_at(stack, version, "node", "benchmark")

    version.wait_in_review()

    assert_each_step_succeeded_once(version)
