"""`strongroom audit`: fetch the release log of a version, and check it without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.sdk.command_line import log_in, run
from tests.sdk.platform_server import Platform
from tests.sdk.test_release_log import ARTIFACT, make_export

pytestmark = pytest.mark.usefixtures("config")


def signed_log(platform: Platform, count: int = 3) -> dict[str, Any]:
    """An export as the platform gives it."""
    key = {
        "public_key": encode_base64(platform.public_key),
        "fingerprint": signature.fingerprint(platform.public_key),
    }
    export = make_export(count, key=platform.signing_key)
    return {**export, "platform": platform.url, "platform_key": key}


@pytest.fixture
def platform(platform: Platform) -> Platform:
    log_in(platform)
    platform.versions[ARTIFACT] = {"id": ARTIFACT, "version": 3, "model": "acme/digits"}
    platform.release_logs[ARTIFACT] = signed_log(platform)
    return platform


def test_a_log_is_fetched_checked_and_checked_again_offline(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "log.json"
    run("audit", "export", "acme/digits:3", "--out", file)
    requests = len(platform.requests)

    told = run("audit", "verify", file)

    assert "Right: 3 entries" in told.stderr
    assert len(platform.requests) == requests
    assert json.loads(file.read_text()) == platform.release_logs[ARTIFACT]
    assert json.loads(run("audit", "verify", file, "--json").stdout)["released"] == 3
    assert "file_exists" in run("audit", "export", "acme/digits:3", "--out", file, code=1).stderr
    run("audit", "export", "acme/digits:3", "--out", file, "--force")


def test_entries_are_shown(platform: Platform) -> None:
    shown = run("audit", "show", "acme/digits:3", "--last=2").output

    assert "node-1" in shown
    assert len([line for line in shown.splitlines() if "released" in line]) == 2
    as_json = json.loads(run("audit", "show", "acme/digits:3", "--json").stdout)
    assert [one["seq"] for one in as_json] == [1, 2, 3]


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_log_that_the_platform_changed_is_not_believed(platform: Platform, command: str) -> None:
    platform.release_logs[ARTIFACT]["entries"][1]["node_name"] = "other"

    refused = run("audit", command, "acme/digits:3", code=1)

    assert "chain_broken: Entry 2" in refused.stderr
    assert "other" not in refused.stdout


def test_what_is_gone_since_the_last_export_is_named(platform: Platform, tmp_path: Path) -> None:
    earlier, later = tmp_path / "earlier.json", tmp_path / "later.json"
    run("audit", "export", "acme/digits:3", "--out", earlier)
    # The platform has cut its log off and signed the shorter one.
    platform.release_logs[ARTIFACT] = signed_log(platform, 2)
    run("audit", "export", "acme/digits:3", "--out", later)

    run("audit", "verify", later)
    refused = run("audit", "verify", later, "--previous", earlier, code=1)

    assert "history_changed: Entry 1" in refused.stderr


def test_a_key_is_trusted_by_its_fingerprint_or_by_the_pin(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log.json"
    run("audit", "export", "acme/digits:3", "--out", file)
    fingerprint = signature.fingerprint(platform.public_key)
    # Another machine, which has never logged in.
    monkeypatch.setenv("STRONGROOM_CONFIG_DIR", str(tmp_path / "fresh"))

    assert "platform_key_unknown" in run("audit", "verify", file, code=1).stderr
    run("audit", "verify", file, "--platform-key", fingerprint)
    other = signature.fingerprint(bytes(32))
    refused = run("audit", "verify", file, "--platform-key", other, code=1)
    assert "signature_invalid" in refused.stderr


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"platform_key": {}}', "[" * 100_000, "\udcff"]
)
def test_a_file_that_is_no_log_is_called_so(
    platform: Platform, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "log.json"
    file.write_bytes(content.encode(errors="surrogateescape"))

    refused = run("audit", "verify", file, "--platform-key", "SHA256:x", code=1)

    assert "not_a_release_log" in refused.stderr


def test_versions_are_named_as_everywhere(platform: Platform) -> None:
    assert "version_invalid" in run("audit", "show", "acme/digits", code=1).stderr
    assert "version_unknown" in run("audit", "show", "acme/digits:4", code=1).stderr
