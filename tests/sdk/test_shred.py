"""`strongroom model`: withdraw a version, and have keys destroyed."""

from __future__ import annotations

import json

import pytest

from tests.sdk.command_line import log_in, run
from tests.sdk.platform_server import Platform
from tests.sdk.screen import run_on_terminal

pytestmark = pytest.mark.usefixtures("config")


@pytest.fixture
def platform(platform: Platform) -> Platform:
    log_in(platform)
    return platform


def test_a_version_is_withdrawn_and_then_shredded(platform: Platform) -> None:
    early = run("model", "shred", "acme/digits:3", "--yes", code=1)
    assert "version_state" in early.output
    run("model", "withdraw", "acme/digits:3", "--yes")

    told = run("model", "shred", "acme/digits:3", "--yes", "--reason=Gone.")

    assert platform.withdrawn == [("acme/digits", 3)]
    assert platform.shredded == [("acme/digits:3", "Gone.")]
    assert "1 keys were destroyed (aws)" in told.output
    assert "final at 2026-11-28" in told.output
    proof = json.loads(run("model", "shred", "acme/digits:3", "--yes", "--json").stdout)
    assert proof["reason"] == "Shredded by its creator."
    answer = json.loads(run("model", "withdraw", "acme/digits:4", "--yes", "--json").stdout)
    assert answer["state"] == "withdrawn"


def test_a_whole_model(platform: Platform) -> None:
    run("model", "shred", "acme/digits", "--yes")

    assert [name for name, _ in platform.shredded] == ["acme/digits"]


@pytest.mark.parametrize("command", ["withdraw", "shred"])
def test_nobody_does_it_by_mistake(platform: Platform, command: str) -> None:
    """A program must say --yes; a person must type the name, and no other."""
    alone = run("model", command, "acme/digits:3", code=2)
    assert "--yes is needed" in alone.output
    for typed in ("\n", "y\n", "acme/digits:2\n", "acme/digits\n"):
        refused = run_on_terminal("model", command, "acme/digits:3", typed=typed)
        assert refused.code == 1
        assert "not_confirmed" in refused.shown
    assert not platform.withdrawn
    assert not platform.shredded
    platform.withdrawn.append(("acme/digits", 3))

    done = run_on_terminal("model", command, "acme/digits:3", typed="acme/digits:3\n")

    assert done.code == 0, done.shown
    assert "never" in done.shown


@pytest.mark.parametrize(
    "subject", ["acme/digits:", "acme/digits:0", "acme/digits:x", "acme/digits:1234567"]
)
def test_what_names_no_version(platform: Platform, subject: str) -> None:
    for command in ("withdraw", "shred"):
        assert "owner/name:3" in run("model", command, subject, "--yes", code=2).output
    assert "owner/name:3" in run("model", "withdraw", "acme/digits", "--yes", code=2).output
    assert "model_invalid" in run("model", "shred", "digits", "--yes", code=1).output
