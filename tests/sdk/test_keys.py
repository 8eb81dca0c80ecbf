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


FLAGS = [
    "--requests-per-minute=60",
    "--units-per-minute=600",
    "--concurrency=6",
    "--budget-day=0.000000001",
    "--budget-month=20",
    "--budget-total=300.5",
    "--model=acme/digits",
    "--model=demo/echo",
    "--network=203.0.113.0/24",
]
LIMITS = {
    "requests_per_minute": 60,
    "units_per_minute": 600,
    "concurrency_max": 6,
    "budget_day_nanos": 1,
    "budget_month_nanos": 20_000_000_000,
    "budget_total_nanos": 300_500_000_000,
    "allowed_models": ["acme/digits", "demo/echo"],
    "allowed_networks": ["203.0.113.0/24"],
}


def test_a_key_is_made_with_limits(platform: Platform) -> None:
    run("keys", "create", "--name=ci", *FLAGS)
    run("keys", "create", "--name=free")

    limited, free = platform.keys
    assert limited | LIMITS == limited
    # What was not named is not sent: the platform decides what that means.
    assert not set(free) & set(LIMITS)


def sent(platform: Platform) -> dict[str, object]:
    return json.loads(platform.bodies[-1])


def test_a_key_is_limited_later_and_freed_again(platform: Platform) -> None:
    run("keys", "create", "--name=ci")

    told = run("keys", "limit", "k1", *FLAGS)
    [key] = platform.keys
    assert key | LIMITS == key
    assert "requests_per_minute" in told.stderr
    assert sent(platform) == LIMITS

    freed = run("keys", "limit", "k1", "--budget-day=none", "--any-model", "--json")
    assert sent(platform) == {"budget_day_nanos": None, "allowed_models": []}
    assert json.loads(freed.stdout) == key | LIMITS | sent(platform)
    run("keys", "limit", "k1", "--concurrency=none", "--any-network")
    assert sent(platform) == {"concurrency_max": None, "allowed_networks": []}


@pytest.mark.parametrize(
    ("_flags", "_told"),
    [
        ([], "at least one"),
        (["--requests-per-minute=0"], "--requests-per-minute"),
        (["--concurrency=many"], "--concurrency"),
        (["--budget-day=0"], "more than nothing"),
        (["--budget-day=-1"], "--budget-day"),
        (["--budget-month=1e-10"], "--budget-month"),
        (["--budget-total=NaN"], "--budget-total"),
        (["--model=acme/digits", "--any-model"], "Both"),
        (["--network=10.0.0.0/8", "--any-network"], "Both"),
    ],
)
def test_limits_used_wrongly(platform: Platform, _flags: list[str], _told: str) -> None:
    run("keys", "create", "--name=ci")

    assert _told in run("keys", "limit", "k1", *_flags, code=2).stderr
    assert [method for method, _ in platform.requests].count("PATCH") == 0


def test_a_key_is_shown_with_its_limits_and_what_it_spent(platform: Platform) -> None:
    run("keys", "create", "--name=ci [bold]", "--budget-total=2", "--model=acme/digits")
    run("keys", "create", "--name=free")

    shown = " ".join(run("keys", "show", "k1").stdout.split())
    free = " ".join(run("keys", "show", "k2").stdout.split())

    assert "name ci [bold]" in shown
    assert "requests per minute no limit" in shown
    assert "allowed models acme/digits allowed networks all" in shown
    assert "budget in all $0.5 of $2 spent" in shown
    assert "budget none" in free
    document = json.loads(run("keys", "show", "k1", "--json").stdout)
    assert (
        document["spend"][0] | {"period": "total", "spent_nanos": 500_000_000}
        in (document["spend"])
    )
    assert run("keys", "show", "k9", code=1).stderr.startswith("error: not_found")
