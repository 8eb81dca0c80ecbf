"""Keep one tritonserver running: start it, notice its end, start it again.

Triton is started by the thread that calls `tick`, and only by it: the kernel ends the
server together with the thread that started it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from inference.node.control_plane import Backoff
from inference.node.log import event
from inference.triton.control import TritonControl
from inference.triton.errors import TritonStartError
from inference.triton.server import TritonServer
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger("node.triton")

START_TIMEOUT_S = 60.0
# A server that lives but does not answer for six looks is as good as dead.
LOOK_S = 5.0
UNANSWERED_MAX = 6
BACKOFF_LIMIT_S = 30.0
# Whoever ran this long is not caught in a loop of crashes.
STABLE_S = 60.0


class TritonSupervisor:
    """Runs the server.

    Args:
        server: What is run.
        control: Asked for the version.
        on_lost: Called when a server that was ready has ended; its models are gone.
        on_change: Called when it becomes ready or stops being so.
    """

    def __init__(
        self,
        server: TritonServer,
        control: TritonControl,
        *,
        on_lost: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self._server = server
        self._control = control
        self._on_lost = on_lost
        self._on_change = on_change
        self._backoff = Backoff(1.0, BACKOFF_LIMIT_S)
        self._start_at = 0.0
        self._started_at = 0.0
        self._look_at = 0.0
        self._unanswered = 0
        self.version = ""
        self.is_ready = False

    def tick(self) -> None:
        """Look at the server once and do what is due."""
        if not self._server.is_running():
            self._note_end()
            if time.monotonic() >= self._start_at:
                self._start()
        elif not self.is_ready:
            self._look_for_start()
        elif time.monotonic() >= self._look_at:
            self._look_for_hang()

    def stop(self) -> None:
        """End the server for good; running requests may finish."""
        self.is_ready = False
        self._server.stop()

    def _start(self) -> None:
        event(logger, "triton.start")
        try:
            self._server.start()
            self._started_at = time.monotonic()
        except (TritonStartError, OSError) as error:
            event(logger, "triton.start_failed", level=logging.ERROR, error=error)
            self._start_at = time.monotonic() + self._backoff.next_s()

    def _note_end(self) -> None:
        if self._server.process is None:
            return
        code = self._server.process.returncode
        event(
            logger,
            "triton.ended",
            level=logging.ERROR,
            code=code,
            log=self._server.last_log_lines(3),
        )
        if time.monotonic() - self._started_at > STABLE_S:
            self._backoff.reset()
        self._server.process = None
        swept = self._server.clean_up()
        event(logger, "triton.cleaned_up", regions=len(swept))
        self._start_at = time.monotonic() + self._backoff.next_s()
        was_ready, self.is_ready = self.is_ready, False
        if was_ready:
            self._on_lost()
        self._on_change()

    def _look_for_start(self) -> None:
        if self._server.is_ready():
            try:
                self.version = self._control.server_version()
            except MarketplaceError:
                return  # Its other port is not open yet.
            self.is_ready, self._unanswered = True, 0
            took_s = round(time.monotonic() - self._started_at, 2)
            event(logger, "triton.ready", version=self.version, pid=self._server.pid, took_s=took_s)
            self._on_change()
        elif time.monotonic() - self._started_at > START_TIMEOUT_S:
            self._kill("not ready in time")

    def _look_for_hang(self) -> None:
        self._look_at = time.monotonic() + LOOK_S
        self._unanswered = 0 if self._server.is_ready() else self._unanswered + 1
        if self._unanswered >= UNANSWERED_MAX:
            self._kill("does not answer")

    def _kill(self, reason: str) -> None:
        event(logger, "triton.kill", level=logging.ERROR, reason=reason)
        if self._server.process is not None:
            self._server.process.kill()
            self._server.process.wait()
