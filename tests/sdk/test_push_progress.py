"""A push shows how far it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.sdk.platform_server import Platform
from tests.sdk.screen import Ended, run_on_terminal

# Longer than the bar takes to draw itself again.
PART_TAKES_S = 0.4


def is_part(method: str, path: str) -> bool:
    return method == "PUT" and "/parts/" in path


def slow_down(method: str, path: str) -> None:
    if is_part(method, path):
        time.sleep(PART_TAKES_S)


def read_bar(shown: str) -> list[tuple[int, float, float]]:
    """Each state of the bar as it was drawn: percent, KiB that were sent, KiB in all."""
    drawn = re.findall(r"Uploading \S+ +(\d+)% ([\d.]+)/([\d.]+) KiB", shown)
    return [(int(percent), float(sent), float(total)) for percent, sent, total in drawn]


def push_on_terminal(folder: Path, code: int = 0) -> Ended:
    ended = run_on_terminal("push", str(folder), "--threads=1")
    assert ended.code == code, ended.shown
    return ended


def test_a_terminal_shows_how_the_bytes_advance(ready: Platform, folder: Path) -> None:
    ready.fault = slow_down

    ended = push_on_terminal(folder)

    drawn = read_bar(ended.shown)
    assert all(before <= after for before, after in pairwise(drawn))
    assert len({sent for _, sent, _ in drawn}) >= 3, drawn
    percent, sent, total = drawn[-1]
    assert (percent, sent) == (100, total)
    sealed_bytes = sum(len(data) for _, data in only_received(ready).values())
    assert total == pytest.approx(sealed_bytes / 1024, abs=0.05)
    # What a program reads of the answer is no place for a bar.
    assert ended.stdout == "acme/digits:1 onboarding\n"


def only_received(platform: Platform) -> dict:
    [upload] = platform.uploads.values()
    return upload["received"]


def test_an_attempt_that_failed_is_taken_back(ready: Platform, folder: Path) -> None:
    cut: list[str] = []

    def cut_once(method: str, path: str) -> str | None:
        slow_down(method, path)
        if is_part(method, path) and path not in cut:
            cut.append(path)
            return "cut"
        return None

    ready.fault = cut_once

    drawn = read_bar(push_on_terminal(folder).shown)

    assert len(cut) == 3
    assert len(ready.sent_parts()) == 6
    assert max(sent for _, sent, _ in drawn) == drawn[-1][2]
    assert drawn[-1][0] == 100


def test_a_push_that_goes_on_begins_where_it_stopped(ready: Platform, folder: Path) -> None:
    ready.fault = lambda method, path: "cut" if path.endswith("files/2/parts/0") else None
    stopped = read_bar(push_on_terminal(folder, code=1).shown)
    ready.fault = slow_down

    drawn = read_bar(push_on_terminal(folder).shown)

    # The last part had left, but nobody had taken it.
    assert 0 < stopped[-1][0] < 100
    assert drawn[0][1] > 0
    assert drawn[-1][0] == 100


def test_elsewhere_there_are_plain_lines_only(ready: Platform, folder: Path) -> None:
    ready.fault = slow_down

    command = [sys.executable, "-m", "strongroom.cli", "push", str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)

    shown = done.stderr.decode()
    assert "Runtime onnx; 3 files" in shown
    assert "Uploading" not in shown
    assert re.findall(r"[^\n\x20-\x7e…]", shown) == []
