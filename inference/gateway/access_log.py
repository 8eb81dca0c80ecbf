"""One line for each answered request, where it is switched on.

Lines are put together without the machinery of `logging` and written a few times a second,
many in one go: that is a third of the price. A crash loses the lines of that moment; what
must not be lost is in Postgres.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, BinaryIO

import orjson

from inference.gateway.config import ACCESS_FLUSH_S, ACCESS_LINES_MAX
from inference.gateway.route_name import name_method, name_route
from marketplace.core.clock import to_wire
from marketplace.core.ids import to_public

if TYPE_CHECKING:
    from inference.gateway.http import Request

LOGGER_NAME = "strongroom.access"


class AccessLog:
    """Gathers lines and writes them.

    Args:
        is_json: Whether a line is a JSON object; else it is for people.
        sink: Where lines go; the standard error if it is not given.
    """

    def __init__(self, *, is_json: bool, sink: BinaryIO | None = None) -> None:
        self.is_json = is_json
        self._sink = sys.stderr.buffer if sink is None else sink
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def note(self, request: Request, *, status: int, cost_nanos: int) -> None:
        """Write a line soon. Only what is ours is in it: ids, names of models, numbers."""
        self._lines.append(self._render(request, status, cost_nanos))
        if len(self._lines) >= ACCESS_LINES_MAX:
            self.flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ACCESS_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what has gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            self._sink.write(b"\n".join(lines) + b"\n")
            self._sink.flush()

    def _render(self, request: Request, status: int, cost_nanos: int) -> bytes:
        caller, offer = request.caller, request.offer
        request_id = request.request_id
        head = {"time": to_wire(request.created_at), "level": "INFO", "logger": LOGGER_NAME}
        fields = {
            "request_id": request_id,
            "trace_id": None if request.trace is None else request.id.hex,
            "method": name_method(request.method),
            "route": name_route(request.segments),
            "status": status,
            "code": request.code,
            "duration_ms": round((request.ended_s - request.started_s) * 1e3, 3),
            "protocol": request.protocol_name,
            "model": offer and offer.model,
            "version": offer and offer.number,
            "prediction_id": request.prediction_id and to_public(request.prediction_id),
            "account_id": caller and caller.account_id,
            "key_id": caller and caller.key_id,
            "cost_nanos": cost_nanos,
        }
        if self.is_json:
            return orjson.dumps(head | {"message": "request"} | fields)
        shown = " ".join(f"{k}={v}" for k, v in fields.items() if v is not None)
        return f"{' '.join(head.values())} request {shown}".encode()
