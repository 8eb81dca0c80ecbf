"""`strongroom signing-key`: which keys sign for an account, and ending one."""

from __future__ import annotations

import json

import pytest

from strongroom.commands import signing_key as commands
from tests.sdk.command_line import run


@pytest.fixture
def pushed(ready, folder):
    run("push", folder)
    return ready


def test_the_list_marks_this_machines_key(pushed, config):
    pushed.signing_keys["SHA256:of another machine"] = b""

    lines = run("signing-key", "list").stdout.splitlines()

    own = next(line for line in lines if config.load_identity().fingerprint in line)
    assert "*" in own
    assert "acme/digits:1" in own
    assert "user:ada@example.com" in own
    other = next(line for line in lines if "another machine" in line)
    assert "*" not in other


def test_the_list_answers_programs(pushed, config):
    (one,) = json.loads(run("signing-key", "list", "--json").stdout)

    assert (one["fingerprint"], one["state"]) == (config.load_identity().fingerprint, "trusted")


def test_looking_makes_no_key(ready, config):
    (config.root / "identity.json").unlink(missing_ok=True)

    run("signing-key", "list")

    assert not config.has_identity


def test_revoking_asks(pushed, monkeypatch):
    monkeypatch.setattr(commands, "is_interactive", lambda: True)

    run("signing-key", "revoke", "0", input="n\n", code=1)
    assert pushed.revoked == set()
    result = run("signing-key", "revoke", "0", input="y\n")

    assert pushed.revoked == set(pushed.signing_keys)
    assert "go on to serve" in result.stderr


def test_where_nobody_can_be_asked_it_wants_a_word(pushed):
    assert "--yes" in run("signing-key", "revoke", "0", code=2).stderr
    assert pushed.revoked == set()

    answer = json.loads(run("signing-key", "revoke", "0", "--yes", "--json").stdout)

    assert answer["state"] == "revoked"


def test_a_push_with_a_new_key_says_what_will_happen(ready, folder):
    real = ready.post_signing_key
    ready.post_signing_key = lambda body: (200, real(body)[1] | {"state": "new"})

    assert "held in review" in " ".join(run("push", folder).stderr.split())


def test_a_push_with_a_trusted_key_says_nothing_of_it(ready, folder):
    assert "held in review" not in run("push", folder).stderr
