"""A platform on loopback, and a creator's folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom.commands import model as model_commands
from strongroom.config import ConfigFolder
from tests.sdk.command_line import INIT_FLAGS, log_in, run, write_model
from tests.sdk.platform_server import Platform, Server


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Server() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigFolder:
    """The client's own files, and nothing from the tester's environment."""
    for name in [name for name in os.environ if name.startswith("STRONGROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STRONGROOM_CONFIG_DIR", str(tmp_path / "config"))
    # Back-off and polling are tested elsewhere.
    monkeypatch.setattr("strongroom.client.BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(model_commands, "POLL_INTERVAL_S", 0.001)
    return ConfigFolder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ONNX model with two files of external data, so that a push has three parts."""
    folder = tmp_path / "digits"
    folder.mkdir()
    write_model(folder, weights_count=2)
    (folder / "README.md").write_text("# Digits\n")
    (folder / "labels.txt").write_text("a\nb\nc\n")
    return folder


@pytest.fixture
def ready(config: ConfigFolder, platform: Platform, folder: Path) -> Platform:
    """Logged in, with a folder that can be pushed."""
    log_in(platform)
    run("init", folder, *INIT_FLAGS, "--labels-file", folder / "labels.txt")
    return platform
