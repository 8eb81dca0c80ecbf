"""Prometheus' own checker, which bin/test unpacks beside .venv."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BESIDE = Path(sys.prefix) / "beside/prometheus/usr/bin/promtool"


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all that it said."""
    found = BESIDE if BESIDE.is_file() else shutil.which("promtool")
    assert found, "promtool is missing: run bin/test once, which unpacks it beside .venv"
    done = subprocess.run(
        [found, *arguments], check=False, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout + done.stderr
