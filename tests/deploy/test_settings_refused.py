"""A missing or wrong setting ends each process at its start, with the variable's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "t" * 32
COMMANDS = {
    "web": ("marketplace", "web"),
    "worker": ("marketplace", "worker"),
    "beat": ("marketplace", "beat"),
    "gateway": ("inference.gateway",),
    "keybroker": ("inference.keybroker",),
    "node": ("inference.node",),
}
_DJANGO = {
    "STRONGROOM_SECRET_KEY": TOKEN,
    "STRONGROOM_DATABASE_URL": "postgresql://app@127.0.0.1:1/none",
    "STRONGROOM_REDIS_URL": "redis://127.0.0.1:1/0",
    "STRONGROOM_WEB_URL": "https://site.example",
    "STRONGROOM_GATEWAY_URL": "https://api.example",
}
_CONTROL_PLANE = {
    **_DJANGO,
    "STRONGROOM_KEYBROKER_URL": "https://keybroker:8443",
    "STRONGROOM_KEYBROKER_TOKEN": TOKEN,
}


def make_environments(folder: Path) -> dict[str, dict[str, str]]:
    """For each process an environment that it starts with in production."""
    for name in ("crt", "key"):
        (folder / name).write_text("none")
    return {
        "web": {**_CONTROL_PLANE, "STRONGROOM_PLAYGROUND_SECRET": TOKEN},
        "worker": _CONTROL_PLANE,
        "beat": _DJANGO,
        "gateway": {
            "STRONGROOM_GATEWAY_DATABASE_URL": "postgresql://gateway@127.0.0.1:1/none",
            "STRONGROOM_REDIS_URL": "redis://127.0.0.1:1/0",
            "STRONGROOM_WEB_URL": "https://site.example",
            "STRONGROOM_GATEWAY_URL": "https://api.example",
            "STRONGROOM_PLAYGROUND_SECRET": TOKEN,
        },
        "keybroker": {
            "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql://keybroker@127.0.0.1:1/none",
            "STRONGROOM_KEYBROKER_TOKEN": TOKEN,
            "STRONGROOM_KEYBROKER_KMS": "local",
            "STRONGROOM_KEYBROKER_KMS_DIR": str(folder / "keys"),
            "STRONGROOM_KEYBROKER_TLS_CERT": str(folder / "crt"),
            "STRONGROOM_KEYBROKER_TLS_KEY": str(folder / "key"),
        },
        "node": {
            "STRONGROOM_NODE_DIR": str(folder / "node"),
            "STRONGROOM_NODE_NAME": "node-1",
            "STRONGROOM_WEB_URL": "https://site.example",
            "STRONGROOM_KEYBROKER_URL": "https://keybroker:8443",
        },
    }


# Process, variable, and what is wrong with it; None: it is not set.
WRONG = [
    *(("web", name, None) for name in (*_DJANGO, "STRONGROOM_KEYBROKER_TOKEN")),
    ("web", "STRONGROOM_PLAYGROUND_SECRET", None),
    ("web", "STRONGROOM_PLAYGROUND_SECRET", "p" * 31),
    ("web", "STRONGROOM_SECRET_KEY", "s" * 31),
    ("web", "STRONGROOM_KEYBROKER_TOKEN", "k" * 31),
    ("web", "STRONGROOM_KEYBROKER_URL", "http://keybroker:8443"),
    ("web", "STRONGROOM_KEYBROKER_URL", "keybroker:8443"),
    ("web", "STRONGROOM_ENV", "developement"),
    ("web", "STRONGROOM_DATABASE_URL", "mysql://app@127.0.0.1/none"),
    ("web", "STRONGROOM_DATABASE_URL", "postgresql://app@127.0.0.1:port/none"),
    ("web", "STRONGROOM_REDIS_URL", "127.0.0.1:6379"),
    ("web", "STRONGROOM_REDIS_URL", "redis://127.0.0.1:port/0"),
    ("web", "STRONGROOM_WEB_URL", "site.example"),
    ("web", "STRONGROOM_GATEWAY_URL", "https://"),
    ("web", "STRONGROOM_WEB_LISTEN", "8000"),
    ("web", "STRONGROOM_WEB_LISTEN", "0.0.0.0:99999"),
    ("web", "STRONGROOM_WEB_LISTEN", "0.0.0.0:0"),
    ("web", "STRONGROOM_WEB_THREADS", "0"),
    ("web", "STRONGROOM_WEB_THREADS", "65"),
    ("web", "STRONGROOM_WEB_INNER_HOSTS", "*"),
    ("web", "STRONGROOM_WEB_INNER_HOSTS", "web,.example"),
    ("web", "STRONGROOM_OBJECT_ENDPOINT", "objects:8333"),
    ("web", "STRONGROOM_EMAIL_PORT", "65536"),
    ("web", "STRONGROOM_CREATOR_SHARE_BPS", "10001"),
    ("web", "STRONGROOM_TRUSTED_PROXY_COUNT", "one"),
    ("web", "STRONGROOM_STRIPE_TAX", "yes"),
    ("web", "STRONGROOM_LOG_LEVEL", "LOUD"),
    ("web", "STRONGROOM_LOG_FORMAT", "xml"),
    ("web", "STRONGROOM_SECRET_KEY_FILE", "/nowhere/key"),
    ("worker", "STRONGROOM_KEYBROKER_TOKEN", None),
    ("worker", "STRONGROOM_WORKER_PROCESSES", "many"),
    ("worker", "STRONGROOM_GATEWAY_METRICS_URLS", "gateway:8001/metrics"),
    ("worker", "STRONGROOM_GATEWAY_METRICS_URLS", "dns+https://gateway/metrics"),
    ("worker", "STRONGROOM_COPIES_MAX", "17"),
    ("worker", "STRONGROOM_COPY_REQUESTS", "0"),
    ("worker", "STRONGROOM_WORKER_PROCESSES", "0"),
    ("beat", "STRONGROOM_DATABASE_URL", None),
    ("beat", "STRONGROOM_STATE_DIR", "/proc/none"),
    *(
        ("gateway", f"STRONGROOM_{name}", None)
        for name in ("GATEWAY_DATABASE_URL", "REDIS_URL", "WEB_URL", "PLAYGROUND_SECRET")
    ),
    ("gateway", "STRONGROOM_ENV", "prod"),
    ("gateway", "STRONGROOM_PLAYGROUND_SECRET", "p" * 31),
    ("gateway", "STRONGROOM_GATEWAY_DATABASE_URL", "host=127.0.0.1"),
    ("gateway", "STRONGROOM_REDIS_URL", "redis://"),
    ("gateway", "STRONGROOM_GATEWAY_LISTEN", "everywhere"),
    ("gateway", "STRONGROOM_GATEWAY_GRPC_LISTEN", "8002"),
    ("gateway", "STRONGROOM_GATEWAY_TRUSTED_PROXIES", "10.0.0.0/33"),
    ("gateway", "STRONGROOM_GATEWAY_METRICS_TOKEN", "short"),
    ("gateway", "STRONGROOM_GATEWAY_DEADLINE_S", "0"),
    ("gateway", "STRONGROOM_GATEWAY_DRAIN_S", "301"),
    ("gateway", "STRONGROOM_OTLP_RATIO", "2"),
    ("gateway", "STRONGROOM_LOG_LEVEL", "LOUD"),
    *(
        ("keybroker", f"STRONGROOM_KEYBROKER_{name}", None)
        for name in ("DATABASE_URL", "TOKEN", "KMS", "KMS_DIR", "TLS_CERT", "TLS_KEY")
    ),
    ("keybroker", "STRONGROOM_ENV", "test"),
    ("keybroker", "STRONGROOM_KEYBROKER_TOKEN", "k" * 31),
    ("keybroker", "STRONGROOM_KEYBROKER_DATABASE_URL", "sqlite:///x"),
    ("keybroker", "STRONGROOM_KEYBROKER_LISTEN", "8443"),
    ("keybroker", "STRONGROOM_KEYBROKER_KMS", "paper"),
    ("keybroker", "STRONGROOM_KEYBROKER_TLS_KEY", "/nowhere/key"),
    ("keybroker", "STRONGROOM_KEYBROKER_EVIDENCE", "trust"),
    ("keybroker", "STRONGROOM_LOADER_DIGESTS", "abc"),
    ("keybroker", "STRONGROOM_LOG_LEVEL", "LOUD"),
    *(
        ("node", f"STRONGROOM_{name}", None)
        for name in ("NODE_DIR", "NODE_NAME", "WEB_URL", "KEYBROKER_URL")
    ),
    ("node", "STRONGROOM_ENV", "live"),
    ("node", "STRONGROOM_NODE_NAME", "Node 1"),
    ("node", "STRONGROOM_KEYBROKER_URL", "http://keybroker:8443"),
    ("node", "STRONGROOM_KEYBROKER_CA", "/nowhere/ca"),
    ("node", "STRONGROOM_GATEWAY_URL", "gateway:8001"),
    ("node", "STRONGROOM_NODE_TRITON_HTTP_PORT", "70000"),
    ("node", "STRONGROOM_NODE_TRITON_DIR", "/nowhere/triton"),
    ("node", "STRONGROOM_NODE_CACHE_BYTES", "much"),
    ("node", "STRONGROOM_NODE_SLOTS", "-1"),
    ("node", "STRONGROOM_LOG_LEVEL", "LOUD"),
]


def start(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    paths = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT}/sdk"}
    return subprocess.run(
        [sys.executable, "-P", "-m", *COMMANDS[name]],
        env=paths | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("name", "variable", "value"), WRONG)
def test_it_does_not_start(name: str, variable: str, value: str | None, tmp_path: Path) -> None:
    environment = make_environments(tmp_path)[name]
    wrong = {key: text for key, text in environment.items() if key != variable}
    if value is not None:
        wrong[variable] = value

    outcome = start(name, wrong)
    assert outcome.returncode in {1, 2}, outcome.stderr
    assert variable in outcome.stderr
    # What is secret is not quoted.
    if "SECRET" in variable or "TOKEN" in variable:
        assert value is None or value.startswith("/") or value not in outcome.stderr


@pytest.mark.parametrize("place", ["staging", "production"])
@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("web", "STRONGROOM_SECRET_KEY"),
        ("gateway", "STRONGROOM_PLAYGROUND_SECRET"),
        ("keybroker", "STRONGROOM_KEYBROKER_TOKEN"),
    ],
)
def test_what_can_be_guessed_is_for_development(
    name: str, variable: str, place: str, tmp_path: Path
) -> None:
    environment = make_environments(tmp_path)[name]

    outcome = start(name, {**environment, variable: "short", "STRONGROOM_ENV": place})
    assert outcome.returncode == 2
    assert f"{variable} must have at least 32 characters" in outcome.stderr
    # The control: another variable's fault comes first in development, where this one is good.
    wrong = {"STRONGROOM_ENV": "development", variable: "short", **LATER[name]}
    outcome = start(name, {**environment, **wrong})
    assert outcome.returncode == 2
    assert variable not in outcome.stderr
    assert next(iter(LATER[name])) in outcome.stderr


# Read after the one above.
LATER = {
    "web": {"STRONGROOM_WEB_LISTEN": "wrong"},
    "gateway": {"STRONGROOM_GATEWAY_LISTEN": "wrong"},
    "keybroker": {"STRONGROOM_KEYBROKER_RELEASE_ALARM_PER_HOUR": "0"},
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "names an empty file"),
        (b" \n", "names an empty file"),
        (b"\xff\xfe", "names a file that is no text"),
    ],
)
def test_a_secret_in_a_bad_file_is_none(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    environment = make_environments(tmp_path)["beat"]

    outcome = start("beat", {**environment, "STRONGROOM_SECRET_KEY_FILE": str(path)})
    assert outcome.returncode == 2
    assert f"STRONGROOM_SECRET_KEY_FILE {expected}" in outcome.stderr
