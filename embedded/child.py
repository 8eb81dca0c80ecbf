"""One child over its life: started, awaited, restarted with back-off, stopped."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from embedded import spawn
from embedded.processes import Process

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
# After so long without trouble the next failure counts as the first.
STABLE_AFTER_S = 60.0
PROBE_EVERY_S = 0.2
# More than a day of a busy gateway's warnings; with one older file, 20 MiB for each part.
LOG_BYTES_MAX = 10 * 1024 * 1024
# What is read of a log at once: for probes, and for the last words of the dead.
LOG_READ_BYTES_MAX = 256 * 1024
# How a task marks the lines that people shall see.
ANNOUNCED = "> "


class State(enum.StrEnum):
    """What people see of a child."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "restarting"
    DONE = "done"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Child:
    """A process as the supervisor knows it.

    Args:
        process: What it is.
        logs: Folder of log files.
    """

    def __init__(self, process: Process, logs: Path) -> None:
        self.process = process
        self.log = logs / f"{process.name}.log"
        self.state = State.WAITING
        self.detail = ""
        self.restarts = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self.was_ready = False
        self.failures = 0
        self._log_offset = 0
        self._lines_seen = 0
        self._started_at = 0.0
        self._changed_at = 0.0
        self._next_at = 0.0

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def pid(self) -> int | None:
        return self.popen.pid if self.popen else None

    @property
    def is_settled(self) -> bool:
        """Ready, or a task that has done its work."""
        return self.state in (State.READY, State.DONE)

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing will start by itself."""
        return self.popen is None and self.state is not State.BACKING_OFF

    def start(self) -> None:
        """Start it now; its output is appended to its log."""
        assert self.popen is None
        rotate(self.log)
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        self._lines_seen = 0
        self._started_at = self._changed_at = time.monotonic()
        self.popen = spawn.start(
            self.process.command,
            env=self.process.env,
            cwd=self.process.cwd,
            log=self.log,
            user=self.process.user,
            death_signal=self.process.stop_signal,
        )
        self.state, self.detail = State.STARTING, ""

    def watch(self) -> None:
        """Look at it once: has it ended, is it ready, is its wait over?"""
        now = time.monotonic()
        if self.state is State.BACKING_OFF and now >= self._next_at:
            self.restarts += 1
            self.start()
        elif self.popen is not None and self.popen.poll() is not None:
            self._ended(self.popen.returncode)
        elif self.state is State.STARTING:
            self._await(now)
        elif self.state is State.READY and now - self._changed_at > STABLE_AFTER_S:
            self.failures = 0

    def _await(self, now: float) -> None:
        if now - self._started_at > self.process.start_timeout_s:
            self.kill()  # The next look finds it ended, and counts a failure.
            self.detail = f"not ready after {self.process.start_timeout_s:.0f} s"
        elif self.process.is_ready is not None and now >= self._next_at:
            self._next_at = now + PROBE_EVERY_S
            if self.process.is_ready(self.read_log()):
                self.state, self._changed_at, self.was_ready = State.READY, now, True

    def _ended(self, code: int) -> None:
        self.kill()  # What it left in its group: workers, model servers.
        self.popen = None
        self._changed_at = time.monotonic()
        if self.state is State.STOPPING:
            self.state = State.STOPPED
        elif self.process.is_task:
            self.state = State.DONE if code == 0 else State.FAILED
            self.detail = "" if code == 0 else describe_exit(code)
            self.failures += code != 0
        else:
            self.detail = self.detail or f"it ended ({describe_exit(code)})"
            wait_s = min(BACKOFF_FIRST_S * 2**self.failures, BACKOFF_MAX_S)
            self.failures += 1
            self._next_at = self._changed_at + wait_s
            self.state = State.BACKING_OFF
            self.detail += f", again in {wait_s:g} s"

    def stop(self) -> None:
        """Ask it to end; `watch_stop` sees to it."""
        self._changed_at = time.monotonic()
        if self.popen is None:
            if self.state not in (State.DONE, State.FAILED):
                self.state = State.STOPPED
            return
        self.state, self.detail = State.STOPPING, ""
        with suppress(ProcessLookupError):
            self.popen.send_signal(self.process.stop_signal)

    def watch_stop(self) -> None:
        """Look at it once while it stops; past its time it is killed."""
        if self.popen is None:
            return
        if self.popen.poll() is not None:
            self._ended(self.popen.returncode)
        elif self.state is State.STOPPING and self._stops_since_s() > self.process.stop_timeout_s:
            self.kill()

    def _stops_since_s(self) -> float:
        return time.monotonic() - self._changed_at

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        if self.popen is not None:
            # It leads a session of its own, so the group has its pid.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)

    def read_log(self) -> str:
        """What it wrote since it was started, the end of it if it is much."""
        return read_from(self.log, self._log_offset)

    def take_announcements(self) -> list[str]:
        """What a task has to say since the last call: its lines that begin with "> ".

        Its other lines are what it is doing; the newest is shown beside its name.
        """
        if not self.process.is_task or self.state is State.WAITING:
            return []
        complete = self.read_log().split("\n")[:-1]
        fresh, self._lines_seen = complete[self._lines_seen :], len(complete)
        steps = [text.strip() for text in fresh if not text.startswith(ANNOUNCED)]
        if steps and self.state is State.STARTING:
            self.detail = steps[-1]
        return [text.removeprefix(ANNOUNCED) for text in fresh if text.startswith(ANNOUNCED)]

    def last_words(self, lines: int = 8) -> list[str]:
        """The end of its log, without what it has said already."""
        read = self.read_log().splitlines()
        return [line for line in read if line.strip() and not line.startswith(ANNOUNCED)][-lines:]


def describe_exit(code: int) -> str:
    """An exit status for people."""
    if code >= 0:
        return f"exit {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def read_from(path: Path, offset: int) -> str:
    """The text of a file from an offset on, at most its last part."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # Smaller than the offset means that it was emptied meanwhile.
            begin = max(offset if offset <= size else 0, size - LOG_READ_BYTES_MAX)
            file.seek(begin)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def rotate(log: Path, size_bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Move a log that has grown too long into its one older file.

    The content is copied and the file emptied, since its writer keeps it open; it appends,
    so it goes on at the new end.
    """
    try:
        if log.stat().st_size <= size_bytes_max:
            return False
    except OSError:
        return False
    older = log.with_name(log.name + ".1")
    older.unlink(missing_ok=True)
    descriptor = os.open(older, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as target, log.open("rb") as source:
        remaining = source.seek(0, os.SEEK_END)
        source.seek(max(0, remaining - size_bytes_max))
        target.write(source.read(size_bytes_max))
    os.truncate(log, 0)
    return True
