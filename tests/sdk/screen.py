"""A terminal for a program under test, and what it showed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Ended:
    """A program that has ended.

    Args:
        code: Its exit code.
        shown: What it wrote to the terminal, without colours and movements.
        stdout: What it wrote to standard output, which was no terminal.
    """

    code: int
    shown: str
    stdout: str


def run_on_terminal(*arguments: str, typed: str = "") -> Ended:
    """Run `strongroom` with a terminal as standard input and standard error.

    Args:
        arguments: Its command line.
        typed: What the person types, before it is asked for.
    """
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "strongroom.cli", *arguments],
        stdin=terminal,
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        text=True,
    )
    os.close(terminal)
    os.write(controller, typed.encode())
    shown = _read_to_end(controller)
    stdout, _ = process.communicate(timeout=_TIMEOUT_S)
    return Ended(process.returncode, _CONTROL.sub("", shown), stdout)


def _read_to_end(controller: int) -> str:
    pieces = []
    try:
        while piece := os.read(controller, 65536):
            pieces.append(piece)
    except OSError:  # On Linux, the end of a terminal that nobody has open any more.
        pass
    finally:
        os.close(controller)
    return b"".join(pieces).decode()
