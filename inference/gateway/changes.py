"""Hear from Postgres what changed, so that a revoked key is refused at once.

Triggers send the table and the row on one channel. While the connection is down nothing is
heard, so the caches are switched off, and they start empty when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import orjson
import psycopg

from inference.gateway.database import connect

logger = logging.getLogger(__name__)

CHANNEL = "strongroom_changes"
# A peer that vanished without a word is found out by asking it something.
_PROBE_S = 5.0
_RECONNECT_S = (0.05, 0.2, 0.5, 1.0)


class Listener(Protocol):
    """Whoever keeps something that Postgres may change."""

    def on_change(self, table: str, row_id: str) -> None:
        """A row was changed, made or removed."""

    def on_listening(self) -> None:
        """From now on every change is told. What happened before is not known."""

    def on_deaf(self) -> None:
        """Changes are not heard any more."""


class Changes:
    """The one connection that listens, and whoever it tells."""

    def __init__(self, url: str, listeners: list[Listener]) -> None:
        self.url = url
        self.listeners = listeners
        self.is_listening = False

    async def run(self) -> None:
        """Listen until cancelled; reconnects for ever."""
        failures = 0
        while True:
            try:
                connection = await connect(self.url, durable=False)
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    failures = 0
                    self._set_listening()
                    await self._hear(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                logger.warning("changes: not heard any more (%s)", type(error).__name__)
            finally:
                self._set_deaf()
            await asyncio.sleep(_RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)])
            failures += 1

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            async for notice in connection.notifies(timeout=_PROBE_S):
                self._tell(notice.payload)
            async with asyncio.timeout(_PROBE_S):
                await connection.execute("SELECT 1")

    def _tell(self, payload: str) -> None:
        try:
            document = orjson.loads(payload)
            table, row_id = str(document["table"]), str(document["id"])
        except (ValueError, KeyError, TypeError):
            logger.error("changes: a notice that is not understood; all caches are emptied")
            self._set_listening()
            return
        for listener in self.listeners:
            listener.on_change(table, row_id)

    def _set_listening(self) -> None:
        self.is_listening = True
        for listener in self.listeners:
            listener.on_listening()

    def _set_deaf(self) -> None:
        if self.is_listening:
            self.is_listening = False
            for listener in self.listeners:
                listener.on_deaf()
