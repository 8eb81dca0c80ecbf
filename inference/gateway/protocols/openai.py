"""`/openai/v1`: the shapes that OpenAI's clients know, on the same keys, models and prices.

A request becomes one prediction, of as many rows as it has texts, and goes the way of every
other prediction. What belongs to a single route stands in a module of its own.

Source: OpenAI API reference; openai-python 3, `_base_client.py` and `_exceptions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import Offer, parse_reference
from inference.gateway.config import MODELS_LISTED_MAX
from inference.gateway.delivery import Delivery, drop_claim
from inference.gateway.errors import ParameterError
from inference.gateway.events import EventStream, render_data, streamed
from inference.gateway.http import Answer, Request, json_answer, parse_json
from inference.gateway.prediction import Prediction
from inference.gateway.protocols import openai_embeddings, openai_text
from inference.gateway.protocols.keyed import read_keyed_body, replay
from inference.gateway.protocols.openai_parameters import Chunks, Head, Planner
from inference.triton import tensors
from inference.triton.errors import OutputError
from marketplace.core.errors import MarketplaceError, MethodNotAllowedError, NotFoundError
from marketplace.core.ids import to_public
from strongroom.interface import Interface

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "openai"
_DONE = "data: [DONE]\n\n"
_PLANNERS: Mapping[str, Planner] = {
    "embeddings": openai_embeddings.plan,
    "completions": openai_text.plan_completion,
    "chat/completions": openai_text.plan_chat,
}
_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# The one code of OpenAI's for every limit; clients look for it. The message names ours.
_CODES = dict.fromkeys(
    ("rate_limited", "concurrency_limited", "units_exceed_limit"), "rate_limit_exceeded"
)


class OpenAIProtocol:
    """Answers the routes below /openai/v1."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def answer(self, request: Request) -> Answer:
        """Find the route and answer.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        route = "/".join(request.segments[2:])
        planner = _PLANNERS.get(route)
        if planner is not None:
            request.prediction_id = request.id
        caller = await self.gateway.authenticator.authenticate(request, allow_basic=False)
        request.caller = caller
        if request.method == "GET":
            self.gateway.limits.admit_read(caller)
        match [request.method, *request.segments[1:]]:
            case ["POST", "v1", *_] if planner is not None:
                return await self._predict(request, caller, planner)
            case ["GET", "v1", "models"]:
                return await self._list_models(caller)
            case ["GET", "v1", "models", *parts]:
                return await self._show_model(caller, "/".join(parts))
            case [_, "v1", "models", *_]:
                raise MethodNotAllowedError
            case [_, "v1", *_] if planner is not None:
                raise MethodNotAllowedError
        raise NotFoundError

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """The error in OpenAI's envelope, with our code."""
        return json_answer(_render_error(error), status=error.http_status)

    async def _list_models(self, caller: Caller) -> Answer:
        caller.require(PREDICT, READ)
        rows = await self.gateway.catalog.list_models(caller, limit=MODELS_LISTED_MAX)
        models = [
            _render_model(
                f"{row['owner']}/{row['name']}",
                owner=row["owner"],
                task=row["task"],
                created_at=row["created_at"],
            )
            for row in rows
        ]
        return json_answer({"object": "list", "data": models})

    async def _show_model(self, caller: Caller, model: str) -> Answer:
        caller.require(PREDICT, READ)
        offer = await self._find_offer(caller, model)
        return json_answer(
            _render_model(model, owner=offer.owner, task=offer.task, created_at=offer.created_at)
        )

    async def _find_offer(self, caller: Caller, model: Any) -> Offer:
        try:
            return await self.gateway.catalog.find(parse_reference(model), caller)
        except NotFoundError as error:
            raise NotFoundError(error.detail, param="model") from error

    async def _predict(self, request: Request, caller: Caller, planner: Planner) -> Answer:
        keyed = await read_keyed_body(self.gateway, request, caller)
        if keyed.earlier is not None:
            return replay(await self.gateway.native.find_row(caller, keyed.earlier))
        document = parse_json(keyed.body)
        model = _read_model(document)
        offer = await self._find_offer(caller, model)
        request.offer = offer
        plan = planner(document, offer)
        rows, interface = plan.rows, offer.interface
        prediction = self.gateway.predictor.begin(
            request, caller, offer, protocol=PROTOCOL, rows=len(rows), claim=keyed.claim
        )
        head = Head(to_public(request.id), int(request.created_at.timestamp()), model)
        if plan.chunks is not None:
            return await self._stream(request, prediction, rows, plan.chunks, head)
        size = interface.batch.max_size
        batches = [rows[at : at + size] for at in range(0, len(rows), size)]

        def decode(outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
            return plan.render(_decode(interface, batches, outputs), head)

        answer = await self.gateway.predictor.run_batches(
            prediction,
            [tensors.encode(interface, batch) for batch in batches],
            decode,
            request=request,
        )
        return json_answer(answer, cost_nanos=prediction.gross_nanos)

    async def _stream(
        self,
        request: Request,
        prediction: Prediction,
        rows: Sequence[Mapping[str, Any]],
        chunks: Chunks,
        head: Head,
    ) -> Answer:
        drop_claim(prediction)
        interface = prediction.offer.interface

        def render(piece: str) -> str:
            return _render_events(chunks.render_piece(piece, head))

        async with EventStream(request, self._render_error_event) as events:
            delivery = Delivery(interface, events, render)
            answer = await self.gateway.predictor.run_stream(
                prediction, tensors.encode(interface, rows), delivery
            )
            end = chunks.render_end(answer, head, cost_nanos=prediction.gross_nanos)
            await events.finish(_render_events(end) + _DONE)
        return streamed(cost_nanos=prediction.gross_nanos)

    def _render_error_event(self, error: MarketplaceError) -> str:
        return _render_events([_render_error(error)])


def _render_error(error: MarketplaceError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    document = {
        "message": error.detail,
        "type": _TYPES.get(error.http_status, kind),
        "param": error.params.get("param") or None,
        "code": _CODES.get(error.code, error.code),
    }
    return {"error": document}


def _render_events(documents: Sequence[Mapping[str, Any]]) -> str:
    return "".join(map(render_data, documents))


def _read_model(document: Any) -> str:
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, str):
        raise ParameterError("model", "Is required: a text, owner/name of a model.")
    return model


def _decode(
    interface: Interface,
    batches: Sequence[Sequence[Any]],
    outputs: Sequence[Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """The rows of all batches, each batch of the length that was sent."""
    rows: list[dict[str, Any]] = []
    for batch, answered in zip(batches, outputs, strict=True):
        decoded = tensors.decode(interface, answered)
        if len(decoded) != len(batch):
            raise OutputError(f"the model answered {len(decoded)} rows, not {len(batch)}")
        rows += decoded
    return rows


def _render_model(model: str, *, owner: str, task: str, created_at: datetime) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": int(created_at.timestamp()),
        "owned_by": owner,
        "task": task,
    }
