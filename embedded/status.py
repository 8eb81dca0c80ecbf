"""Show the state of every part: redrawn in place on a terminal, else a line per change."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Protocol, TextIO

from embedded.child import Child, State

_REDRAW_EVERY_S = 0.25
_MARKS = {
    State.WAITING: ("·", "2"),
    State.STARTING: ("…", "33"),
    State.READY: ("●", "32"),
    State.DONE: ("✓", "32"),
    State.BACKING_OFF: ("↻", "31"),
    State.FAILED: ("✗", "31"),
    State.STOPPING: ("…", "33"),
    State.STOPPED: ("○", "2"),
}


class Status(Protocol):
    """What the supervisor tells about its children."""

    def show(self, children: Sequence[Child]) -> None:
        """Bring what is shown up to date."""

    def say(self, text: str) -> None:
        """Print a line that stays."""


def for_stream(stream: TextIO | None = None, *, plain: bool = False) -> Status:
    """The kind that fits: live on a terminal, plain elsewhere."""
    target = stream or sys.stdout
    return PlainStatus(target) if plain or not target.isatty() else LiveStatus(target)


def line(child: Child) -> str:
    """One part in words."""
    parts = [f"{child.name:<11}{child.state.value:<11}{child.process.where}".rstrip()]
    if child.restarts:
        parts.append(f"restarts {child.restarts}")
    if child.detail:
        parts.append(child.detail)
    return "  ".join(parts)


class PlainStatus:
    """A line for each change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: dict[str, tuple[State, str, int]] = {}

    def show(self, children: Sequence[Child]) -> None:
        for child in children:
            seen = (child.state, child.detail, child.restarts)
            before = self._shown.get(child.name, (State.WAITING, "", 0))
            if seen != before:
                self._shown[child.name] = seen
                self.say(line(child))

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveStatus:
    """A block at the bottom of the terminal, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._height = 0
        self._drawn_at = 0.0
        self._block: list[str] = []

    def show(self, children: Sequence[Child]) -> None:
        block = [self._colour(child) for child in children]
        now = time.monotonic()
        over = all(child.is_over for child in children)
        if block != self._block and (over or now - self._drawn_at >= _REDRAW_EVERY_S):
            self._drawn_at = now
            self._draw(block)

    def say(self, text: str) -> None:
        block = self._block
        self._draw([])
        print(text, file=self._stream, flush=True)
        self._draw(block)

    def _colour(self, child: Child) -> str:
        mark, colour = _MARKS[child.state]
        width = shutil.get_terminal_size().columns - 3
        return f"\x1b[{colour}m{mark}\x1b[0m {line(child)[:width]}"

    def _draw(self, block: list[str]) -> None:
        up = f"\x1b[{self._height}A" if self._height else ""
        lines = "".join(f"{text}\n" for text in block)
        self._stream.write(f"\r{up}\x1b[J{lines}")
        self._stream.flush()
        self._block, self._height = block, len(block)
