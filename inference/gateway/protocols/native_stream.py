"""A prediction of `/v1` as events, of the kinds that Replicate's clients know.

`output` carries pieces of text as they are, `done` is the end, `error` is another one. Every
event has an id, without which some clients overlook it, and no other kinds are sent, at which
others fail.

Source: replicate-python 1.0, `stream.py`; WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from inference.gateway.delivery import Delivery, drop_claim
from inference.gateway.events import CONTENT_TYPE, EventStream, streamed
from inference.gateway.http import Answer, Request
from inference.gateway.prediction import Prediction
from inference.gateway.predictor import Predictor
from inference.triton import tensors
from marketplace.core.errors import FieldError, InvalidInputError, MarketplaceError
from marketplace.core.problem import problem

# The standard knows three ends of a line, and a text comes back with the last of them.
_LINE_END = re.compile("\r\n|\r|\n")


def is_wanted(request: Request, document: Mapping[str, Any]) -> bool:
    """Whether the answer shall be events: body and headers say so."""
    accepted = request.headers.get("accept") or ""
    return document.get("stream") is True and CONTENT_TYPE in accepted


async def answer(
    request: Request, predictor: Predictor, prediction: Prediction, given: Mapping[str, Any]
) -> Answer:
    """Run a prediction and send its events.

    Raises:
        InvalidInputError: The model cannot stream.
        StreamKeyedError: The request has an idempotency key.
        MarketplaceError: What `Predictor.run_stream` raises.
    """
    interface = prediction.offer.interface
    output = interface.streamed_output
    if output is None:
        detail = f"{prediction.offer.model} gives its answer at once: it cannot stream."
        raise InvalidInputError(detail, errors=[FieldError(pointer="/stream", detail=detail)])
    drop_claim(prediction)
    writer = _Writer()

    def render_error(error: MarketplaceError) -> str:
        document = problem(error, request_id=request.request_id) | {"instance": request.path}
        return writer.render("error", orjson.dumps(document).decode())

    async with EventStream(request, render_error) as events:
        delivery = Delivery(interface, events, lambda piece: writer.render("output", piece))
        row = await predictor.run_stream(prediction, tensors.encode(interface, [given]), delivery)
        metrics = {
            "cost_nano_usd": prediction.gross_nanos,
            "predict_time": prediction.predict_time_s,
        }
        beside = {name: value for name, value in row.items() if name != output.name}
        document = {"output": beside, "metrics": metrics}
        await events.finish(writer.render("done", orjson.dumps(document).decode()))
    return streamed(cost_nanos=prediction.gross_nanos)


class _Writer:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._count = 0

    def render(self, kind: str, text: str) -> str:
        self._count += 1
        return render_event(kind, str(self._count), text)


def render_event(kind: str, event_id: str, text: str) -> str:
    """An event with an id; each line of its text is a line of data."""
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(text))
    return f"event: {kind}\nid: {event_id}\n{lines}\n"
