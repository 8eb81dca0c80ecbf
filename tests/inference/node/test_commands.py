"""`strongroom-node`, as a person or an image's start script calls it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.inference.node.caches import assign, digests, fetch, version
from tests.inference.node.processes import ROOT


@pytest.fixture
def sealed(platform, tmp_path):
    made = assign(platform, tmp_path, os.urandom(100_000), os.urandom(1000))
    platform.likely = [
        {"version_id": str(version(made)), "name": "acme/tiny:1", "size_bytes": 101_000}
    ]
    platform.parts_sent.clear()
    yield made
    platform.likely = []


@pytest.fixture
def run(platform, control_plane, tmp_path):
    """The command with the settings of a node that has joined."""

    def run(*arguments, **settings):
        environment = {
            "PATH": "/usr/bin:/bin",
            "STRONGROOM_NODE_DIR": str(tmp_path),
            "STRONGROOM_WEB_URL": platform.web_url,
            **settings,
        }
        return subprocess.run(
            [ROOT / "bin/strongroom-node", *arguments],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_cache_is_filled_before_the_node_starts(platform, run, sealed, make_cache):
    found = run("prefetch", "--json")

    assert found.returncode == 0, found.stderr
    [line] = json.loads(found.stdout)["versions"]
    assert (line["name"], line["state"]) == ("acme/tiny:1", "here")
    assert platform.lease_requests == []
    platform.parts_sent.clear()
    # The node's load, later.
    artifact = fetch(make_cache(), sealed)
    assert platform.parts_sent == []
    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()


def test_only_what_the_platform_names_can_be_had(run, sealed, tmp_path):
    named = run("prefetch", "acme/tiny")
    assert (named.returncode, named.stdout) == (0, "acme/tiny:1  here\n")

    unknown = run("prefetch", "acme/other:1")
    assert (unknown.returncode, unknown.stdout) == (1, "acme/other:1  unknown\n")


def test_a_cache_without_room_fails_with_its_reason(run, sealed):
    found = run("prefetch", STRONGROOM_NODE_CACHE_BYTES="1000")

    assert (found.returncode, found.stdout) == (1, "acme/tiny:1  disk_full\n")


def test_a_node_that_has_not_joined_gets_nothing(run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()

    found = run("prefetch", STRONGROOM_NODE_DIR=str(empty))

    assert found.returncode == 2
    assert "no node has joined" in found.stderr
    # No identity was made either.
    assert list(empty.iterdir()) == []


def test_a_token_that_is_not_good_is_refused(run, sealed, platform, monkeypatch):
    monkeypatch.setattr(platform, "token_sha256", "0" * 64)

    found = run("prefetch")

    assert found.returncode == 3
    assert "unauthenticated" in found.stderr


def test_a_platform_that_is_away_has_its_own_code(run, sealed):
    found = run("prefetch", STRONGROOM_WEB_URL="http://127.0.0.1:9")

    assert found.returncode == 3


def test_status_shows_what_lies_there(run, sealed, tmp_path, make_cache):
    fetch(make_cache(), sealed)

    found = run("status", "--json")
    shown = run("status")

    assert found.returncode == shown.returncode == 0, found.stderr
    status = json.loads(found.stdout)
    size_bytes = sum(one.stat().st_size for one in sealed.parts)
    assert status["folder"] == str(tmp_path / "cache")
    assert (status["part_count"], status["part_bytes"]) == (2, size_bytes)
    assert (status["damage_count"], status["pinned_bytes"]) == (0, 0)
    assert f"part_bytes     {size_bytes:>16}" in shown.stdout


def test_verify_finds_what_went_bad_and_the_next_fetch_mends_it(run, sealed, make_cache):
    cache = make_cache()
    bad = fetch(cache, sealed).parts[0]
    assert run("verify").returncode == 0
    bad.write_bytes(b"\0" * bad.stat().st_size)

    found = run("verify", "--json")

    assert found.returncode == 1
    assert json.loads(found.stdout) == {"good": 1, "damaged": [digests(sealed)[0]]}
    assert run("verify").returncode == 0
    assert fetch(cache, sealed).parts[0].read_bytes() == sealed.parts[0].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((), {}, "COMMAND"),
        (("fetch",), {}, "invalid choice"),
        (("status",), {"STRONGROOM_NODE_DIR": ""}, "STRONGROOM_NODE_DIR"),
        (("status",), {"STRONGROOM_NODE_CACHE_DIR": "/nowhere/at/all"}, "there is no cache"),
        (("verify",), {"STRONGROOM_NODE_CACHE_BYTES": "many"}, "STRONGROOM_NODE_CACHE_BYTES"),
        (("prefetch",), {"STRONGROOM_WEB_URL": ""}, "STRONGROOM_WEB_URL"),
        (("prefetch",), {"STRONGROOM_NODE_MIRROR_URL": "x"}, "STRONGROOM_NODE_MIRROR_URL"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(run, make_cache, arguments, settings, said):
    make_cache()

    found = run(*arguments, **settings)

    assert found.returncode == 2
    assert said in found.stderr


def test_help_is_there(run):
    found = run("--help")

    assert found.returncode == 0
    assert all(one in found.stdout for one in ("prefetch", "status", "verify"))
