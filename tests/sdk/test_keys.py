"""API keys at the command line: the secret once, everything else as often as one likes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tests.sdk.command_line import log_in, run
from tests.sdk.platform_server import NEW_KEY, Platform

pytestmark = pytest.mark.usefixtures("config")


@pytest.fixture
def platform(platform: Platform) -> Platform:
    log_in(platform)
    return platform


def test_the_secret_is_the_answer_and_is_shown_once(platform: Platform) -> None:
    made = run("keys", "create", "--name=ci", "--mode=test")

    assert made.stdout == f"{NEW_KEY}\n"
    assert "only time" in made.stderr
    assert NEW_KEY not in run("keys", "list").output
    assert NEW_KEY not in run("keys", "list", "--json").output


def test_a_key_is_made_as_wanted(platform: Platform) -> None:
    flags = ["--mode=test", "--scope=read", "--expires-at=2027-01-31T00:00:00Z", "--account=lab"]
    run("keys", "create", "--name=ci", *flags)

    [key] = platform.keys
    wanted = {"account": "lab", "name": "ci", "mode": "test", "scopes": ["read"]}
    assert key | wanted | {"expires_at": "2027-01-31T00:00:00Z"} == key
    assert "--scope" in run("keys", "create", "--name=x", "--scope=push", code=2).stderr


def read_table(output: str) -> list[dict[str, str]]:
    """The rows of a table, by the titles above them."""
    head, *rows = output.splitlines()
    titles = ["id", "name", "mode", "prefix", "scopes", "created", "last used", "expires"]
    begins = [head.index(title) for title in [*titles, "revoked"]]
    columns = list(pairwise([*begins, None]))
    return [{head[a:b].strip(): row[a:b].strip() for a, b in columns} for row in rows]


def test_the_list_says_what_a_key_may_do_its_last_use_and_its_end(platform: Platform) -> None:
    run("keys", "create", "--name=fresh")
    run("keys", "create", "--name=old [bold]", "--scope=predict")
    platform.keys[1] |= {
        "last_used_at": "2026-11-21T09:10:11.000000Z",
        "expires_at": "2027-01-31T00:00:00Z",
        "revoked_at": "2026-11-21T10:00:59Z",
    }

    # In a pipe, wide as it is, each key stays on one line.
    fresh, old = read_table(run("keys", "list").stdout)

    made = {"mode": "live", "prefix": "sk_live_newn", "created": "2026-11-21 03:42"}
    assert fresh == made | {
        "id": "k1", "name": "fresh", "scopes": "predict, read",
        "last used": "never", "expires": "never", "revoked": "",
    }  # fmt: skip
    assert old == made | {
        "id": "k2", "name": "old [bold]", "scopes": "predict", "last used": "2026-11-21 09:10",
        "expires": "2027-01-31 00:00", "revoked": "2026-11-21 10:00",
    }  # fmt: skip
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert listed == platform.keys


def test_a_key_is_revoked_by_its_id(platform: Platform) -> None:
    run("keys", "create", "--name=ci")

    run("keys", "revoke", "k1")

    assert ("DELETE", "/api/keys/k1") in platform.requests
    assert platform.keys == []
