"""The parts without Django start without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("inference.gateway.app", ["django", "celery", "stripe", "torch", "transformers"]),
        ("inference.keybroker.app", ["django", "celery", "stripe", "torch"]),
        ("inference.node.main", ["django", "celery", "stripe", "torch", "psycopg"]),
        ("fakestripe.app", ["django", "stripe", "marketplace", "psycopg"]),
        ("strongroom", ["django", "httpx", "click", "numpy", "marketplace"]),
    ],
)
def test_a_process_imports_only_what_it_needs(module: str, strangers: list[str]) -> None:
    script = f"import sys, {module}; print([n for n in {strangers!r} if n in sys.modules])"

    printed = subprocess.check_output(
        [sys.executable, "-c", script],
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
    )

    assert printed.strip() == "[]"
