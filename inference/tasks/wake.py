"""Hear in each worker, as soon as somebody wants a version that sleeps.

A thread beside the worker's processes listens to Postgres and looks by itself once a second, so
that a notice that was lost costs a second. What it does is a sweep's work too, should it fail:
wishes stay in their table until they are answered.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
from celery.signals import worker_ready, worker_shutting_down
from django.db import connection, connections

logger = logging.getLogger(__name__)

CHANNEL = "strongroom_wakes"
# So often it looks without a notice.
LOOK_S = 1.0
# After Postgres was away.
AGAIN_S = 1.0


class WakeListener:
    """The thread, and how it ends."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; returns at once."""
        self._thread = threading.Thread(target=self.run, name="wakes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(2 * LOOK_S)

    def run(self) -> None:
        """Listen and answer until it is stopped; connects again for ever."""
        while not self._is_over.is_set():
            try:
                self._hear()
            except Exception as error:  # noqa: BLE001 - The next wish must find somebody.
                logger.warning("wakes: not heard for a moment (%s)", type(error).__name__)
            finally:
                # Of this thread alone.
                connections.close_all()
            self._is_over.wait(AGAIN_S)

    def _hear(self) -> None:
        from inference.services import wake

        with psycopg.connect(**_read_address(), autocommit=True) as listening:
            listening.execute(f"LISTEN {CHANNEL}")
            while not self._is_over.is_set():
                wake.answer_wishes()
                # One is enough to look: a look answers all wishes that there are.
                for _ in listening.notifies(timeout=LOOK_S, stop_after=1):
                    pass


def _read_address() -> dict[str, Any]:
    """How Django itself connects; a connection of our own, because a pool would reset it."""
    parameters = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port", "sslmode", "connect_timeout")
    return {name: parameters[name] for name in names if name in parameters}


_listener = WakeListener()


@worker_ready.connect
def listen(**_: Any) -> None:
    """Begin with the worker."""
    _listener.start()


@worker_shutting_down.connect
def leave(**_: Any) -> None:
    """End with it."""
    _listener.stop()
