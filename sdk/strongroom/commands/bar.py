"""How far a long transfer is."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from strongroom.commands.context import notes, say
from strongroom.push import Reporter


class BarReporter(Reporter):
    """A progress bar on a terminal; single lines elsewhere."""

    def __init__(self, what: str) -> None:
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=notes,
            disable=not notes.is_terminal,
        )
        self._task = self._bar.add_task("transfer", total=None, visible=False)

    def __enter__(self) -> BarReporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total_bytes: int, done_bytes: int) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=total_bytes, completed=done_bytes, visible=True)

    def advance(self, size_bytes: int) -> None:
        """Move it."""
        self._bar.advance(self._task, size_bytes)

    def note(self, text: str) -> None:
        """Say something above it."""
        say(text)
