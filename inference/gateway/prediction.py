"""What is known of a prediction while it runs, and what is booked of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer, Priced
from inference.gateway.holds import Draw
from inference.gateway.idempotency import Claim
from inference.gateway.metrics import METRICS, Series
from inference.gateway.output_files import OutputFiles
from inference.gateway.tracing import Trace
from inference.triton.media import Keep
from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError


@dataclass(slots=True)
class Prediction:
    """One run on its way. Its price is the one that it met when it began."""

    id: UUID
    caller: Caller
    offer: Offer
    price: Priced
    protocol: str
    rows: int
    created_at: datetime
    # On the clock of time.monotonic.
    deadline_s: float
    # What the caller has given it, from `created_at` on.
    allowed_s: float = 0.0
    claim: Claim | None = None
    # Whether it runs in the place of one that was paid for: it costs nothing and is not recorded.
    is_repeat: bool = False
    # What its caller calls its usage; empty for nothing.
    tag: str = ""
    # What it gives as files; None where nothing may be kept.
    files: OutputFiles | None = None
    # Kept only for keyed requests: a retry is answered with it.
    output: Any = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    predict_time_s: float = 0.0
    trace: Trace | None = None
    # Where it waits or runs, and since when it waits; 0 once it has left.
    _replica_id: UUID | None = None
    _queued_s: float = 0.0
    _started_s: float = 0.0
    # True once it has its money, if it costs any: its failure is recorded.
    is_admitted: bool = False
    # None where it costs nothing, and once the draw has come to its end.
    draw: Draw | None = None
    # True from the moment that it is handed over to be booked: nothing stops it any more.
    is_booking: bool = False
    # Whether something of its answer has left: it will be charged, however it ends.
    has_delivered: bool = False
    stopped: MarketplaceError | None = None
    # What its run waits for, where that can be given up.
    _awaited: asyncio.Future[Any] | None = None
    # What it costs; until it is booked, the most that it can cost, which is reserved.
    gross_nanos: int = field(init=False)
    # Whether its price meters or counts something, so that the booking tells what it costs.
    is_rated: bool = field(init=False)
    # Units of each kind that its price meters: the most there can be, then what there was.
    metered: dict[str, int] | None = None
    series: Series = field(init=False)

    def __post_init__(self) -> None:
        terms = self.price.terms
        is_free = self.caller.is_test or self.is_repeat
        self.is_rated = not (is_free or terms.is_plain)
        self.gross_nanos = 0 if is_free else self.rows * terms.nanos_per_prediction
        self.series = METRICS.of(self.offer)

    def queue(self, replica_id: UUID) -> None:
        """It, or its next batch, waits for a place at a replica."""
        self._replica_id = replica_id
        self._queued_s = time.monotonic()

    def start(self) -> None:
        """It, or its next batch, leaves for a replica."""
        self.started_at = self.started_at or utc_now()
        self._started_s = now_s = time.monotonic()
        if self._queued_s:
            self.series.queue_seconds.observe(now_s - self._queued_s)
            self.note("queue", self._queued_s, now_s, replica_id=self._replica_id)
            # Should it be repeated alone, it does not wait again.
            self._queued_s = 0.0

    def end(self) -> None:
        """The outputs of that are here."""
        now_s = time.monotonic()
        self.predict_time_s += now_s - self._started_s
        self.note("triton", self._started_s, now_s, replica_id=self._replica_id)

    def fail(self, error: BaseException) -> None:
        """There are none."""
        name = "queue" if self._queued_s else "triton"
        began_s = self._queued_s or self._started_s
        self.note(name, began_s, time.monotonic(), error, replica_id=self._replica_id)

    def name_call(self) -> str:
        """The `traceparent` of a call that leaves for a replica now; empty if it is not traced."""
        return self.trace.name_call() if self.trace is not None else ""

    def note(
        self,
        name: str,
        began_s: float,
        ended_s: float,
        error: BaseException | None = None,
        **ids: UUID | None,
    ) -> None:
        """Remember a part of its time, if it is traced."""
        if self.trace is not None:
            self.trace.add(name, began_s, ended_s, error, **ids)

    def wait_on(self, awaited: asyncio.Future[Any]) -> None:
        """It waits for this now; `stop` ends the waiting."""
        self._awaited = awaited
        if self.stopped is not None:
            awaited.set_exception(self.stopped)

    def stop(self, error: MarketplaceError) -> bool:
        """Give it up with an error; False if it is too late for that."""
        if self.is_booking:
            return False
        if self.stopped is None:
            self.stopped = error
            if self._awaited is not None and not self._awaited.done():
                self._awaited.set_exception(error)
        return True

    def begin_booking(self) -> None:
        """From here on it can only be booked.

        Raises:
            MarketplaceError: It was stopped before.
        """
        self.check_going_on()
        self.is_booking = True

    def check_going_on(self) -> None:
        """Raise the error with which it was stopped, if it was."""
        if self.stopped is not None:
            raise self.stopped

    @property
    def keep(self) -> Keep | None:
        """Takes a file that it gives; None where nothing may be kept."""
        return None if self.files is None else self.files.keep

    @property
    def ends_with_client(self) -> bool:
        """Whether nobody comes back for the answer once its connection is closed."""
        return self.claim is None or self.claim.is_implied

    @property
    def mode(self) -> str:
        """As the usage event names it."""
        return "test" if self.caller.is_test else "live"
