"""Predictions on their way in this process, so that they can be given up.

A client that has gone is noticed by looking, a few times a second, at those requests alone
that are still on their way after a moment: fast ones, which are nearly all, cost nothing but
their entry. A cancellation that came to another gateway arrives as a notice of Postgres.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.gateway.config import GONE_AFTER_S, GONE_SWEEP_S
from inference.gateway.errors import CanceledError, ClientGoneError
from inference.gateway.http import Request
from inference.gateway.prediction import Prediction

# Named like a table, because the channel tells of changes to tables.
CANCELLATION = "cancellation"


@dataclass(slots=True, eq=False)
class _Run:
    """A prediction, and the connection that waits for it."""

    prediction: Prediction
    request: Request
    gone: asyncio.Future[Any] | None = None

    def watch(self) -> None:
        """Be told when the client closes its connection."""
        self.gone = asyncio.ensure_future(self.request.protocol.client_disconnect())
        self.gone.add_done_callback(self._on_gone)

    def _on_gone(self, gone: asyncio.Future[Any]) -> None:
        if not gone.cancelled() and gone.exception() is None:
            self.prediction.stop(ClientGoneError())


class Running:
    """All predictions that this process works on; a `Listener` of cancellations."""

    def __init__(self) -> None:
        self._runs: dict[UUID, _Run] = {}
        # Those of them whose clients nobody watches yet, the oldest first.
        self._fresh: dict[UUID, _Run] = {}

    def enter(self, prediction: Prediction, request: Request) -> None:
        """It begins. Who has a key may come back for the answer, and is not watched."""
        run = self._runs[prediction.id] = _Run(prediction, request)
        if prediction.ends_with_client:
            self._fresh[prediction.id] = run

    def leave(self, prediction: Prediction) -> None:
        """It is over, one way or the other."""
        self._fresh.pop(prediction.id, None)
        run = self._runs.pop(prediction.id, None)
        if run is not None and run.gone is not None:
            # granian's future is not seen by Python's collector: in a ring of references with it
            # the run, its request and its prediction would stay for ever.
            gone, run.gone = run.gone, None
            gone.cancel()

    def list_versions(self) -> list[UUID]:
        """What they run, each version as often as it runs."""
        return [run.prediction.offer.version_id for run in self._runs.values()]

    def cancel(self, account_id: UUID, prediction_id: UUID) -> Prediction | None:
        """Give up a prediction of an account; None if it is not here or is being booked."""
        run = self._runs.get(prediction_id)
        if run is None or run.prediction.caller.account_id != account_id:
            return None
        return run.prediction if run.prediction.stop(CanceledError()) else None

    async def run(self) -> None:
        """Begin to watch, for ever, the clients of what takes longer than a moment."""
        while True:
            await asyncio.sleep(GONE_SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Watch the clients of what has taken longer than a moment."""
        before_s = time.monotonic() - GONE_AFTER_S
        while self._fresh:
            prediction_id = next(iter(self._fresh))
            if self._fresh[prediction_id].request.started_s > before_s:
                return
            self._fresh.pop(prediction_id).watch()

    def on_change(self, table: str, row_id: str) -> None:
        """Another gateway was asked to cancel what may run here."""
        if table != CANCELLATION:
            return
        account_id, _, prediction_id = row_id.partition(":")
        with suppress(ValueError):  # Whoever sends others than ours cancels nothing.
            self.cancel(UUID(account_id), UUID(prediction_id))

    def on_listening(self) -> None:
        """Nothing is kept that could be stale."""

    def on_deaf(self) -> None:
        """Nothing is kept that could be stale."""
