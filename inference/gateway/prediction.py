"""What is known of a prediction while it runs, and what is booked of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer
from inference.gateway.holds import Draw
from inference.gateway.idempotency import Claim
from marketplace.core.clock import utc_now


@dataclass(slots=True)
class Prediction:
    """One run on its way. Its price is the one that it met when it began."""

    id: UUID
    caller: Caller
    offer: Offer
    price_id: UUID
    protocol: str
    rows: int
    created_at: datetime
    # On the clock of time.monotonic.
    deadline_s: float
    claim: Claim | None = None
    # Kept only for keyed requests: a retry is answered with it.
    output: Any = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    predict_time_s: float = 0.0
    _started_s: float = 0.0
    # True once it has its money, if it costs any: its failure is recorded.
    is_admitted: bool = False
    # None where it costs nothing, and once the draw has come to its end.
    draw: Draw | None = None
    gross_nanos: int = field(init=False)

    def __post_init__(self) -> None:
        self.gross_nanos = 0 if self.caller.is_test else self.rows * self.offer.price_nanos

    def start(self) -> None:
        """It, or its next batch, leaves for a replica."""
        self.started_at = self.started_at or utc_now()
        self._started_s = time.monotonic()

    def end(self) -> None:
        """The outputs of that are here."""
        self.predict_time_s += time.monotonic() - self._started_s

    @property
    def mode(self) -> str:
        """As the usage event names it."""
        return "test" if self.caller.is_test else "live"
