"""Around every request: what is counted, logged and traced of it, in one place."""

from __future__ import annotations

import time

from inference.gateway.access_log import AccessLog
from inference.gateway.config import GatewayConfig
from inference.gateway.http import Request
from inference.gateway.metrics import METRICS
from inference.gateway.tracing import make_tracer
from marketplace.core import logs


class Observer:
    """Watches requests begin and end.

    Also for answers that leave in parts: call `end` once the last part has left.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.tracer = make_tracer(config)
        self.access_log = (
            AccessLog(is_json=logs.read_format() == "json") if config.logs_access else None
        )

    def begin(self, request: Request) -> None:
        """A request has come."""
        if self.tracer is not None:
            request.trace = self.tracer.begin(request.id)

    def end(self, request: Request, *, status: int, cost_nanos: int) -> None:
        """It was answered, or is about to be."""
        request.ended_s = time.monotonic()
        METRICS.observe_answer(
            request.offer,
            request.protocol_name,
            status,
            request.code,
            request.ended_s - request.started_s,
        )
        if request.is_replay and status < 400:
            METRICS.observe_replay(request.protocol_name)
        if self.access_log is not None:
            self.access_log.note(request, status=status, cost_nanos=cost_nanos)
        if self.tracer is not None and request.trace is not None:
            self.tracer.end(request, status)

    def stop(self) -> None:
        """Write and send what waits."""
        if self.access_log is not None:
            self.access_log.flush()
        if self.tracer is not None:
            self.tracer.stop()
