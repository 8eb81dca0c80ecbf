"""Run code in a process of its own: a sandbox cannot be left again."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

_PRELUDE = f"""
import json, os, sys, threading
from pathlib import Path
ROOT = Path({str(ROOT)!r})
sys.path[:0] = [str(ROOT), str(ROOT / "sdk")]
from inference.serving import kernel, landlock, memory, probe, sandbox, seccomp, threads
def confine(mode=""):
    return sandbox.confine(readable=sandbox.find_readable(ROOT), keep_fds=[], mode=mode)
def errno_of(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
    return 0
def answer(value):
    print(json.dumps(value))
"""


def run_child(code: str, **options: Any) -> Any:
    """What the code gave to `answer`; the process must end well."""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
