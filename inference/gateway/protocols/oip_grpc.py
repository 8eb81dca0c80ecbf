"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC.

The same models, checks, prices and refusals as below /v2, in other words. What controls a
server (repository, shared memory, trace, logs, statistics, configuration) is not offered: a
call for it ends here, and no server behind is asked.

Source: Open Inference Protocol, gRPC; Triton, grpc_service.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from tritonclient.grpc import service_pb2

from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import Offer, parse_reference
from inference.gateway.delivery import Delivery
from inference.gateway.errors import ModelNotReadyError, NotOfferedError
from inference.gateway.http import Answer, Request
from inference.gateway.protocols.keyed import REPLAYED, read_keyed_body, take_output
from inference.gateway.protocols.oip import Inference, read_inference, render_metadata
from inference.gateway.protocols.oip_answer import InferAnswer
from inference.gateway.protocols.oip_message import (
    parse,
    to_canonical,
    to_document,
    to_reference,
    to_response,
)
from inference.gateway.protocols.oip_request import read_document
from inference.triton.tensors import pack
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import to_public

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "grpc"
STREAM = "ModelStreamInfer"
# Of the responses in a stream: whether it is the last one to its request.
_FINAL = "triton_final_response"
_CONTENT_TYPE = "application/grpc+proto"


class GRPCProtocol:
    """Answers the calls of one service; the last segment of a request is the call's name."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def answer(self, request: Request) -> Answer:
        """Find the call and answer.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        match request.segments[-1]:
            case "ServerLive":
                return _to_answer(service_pb2.ServerLiveResponse(live=True))
            case "ServerReady":
                is_ready = self.gateway.is_ready()
                return _to_answer(service_pb2.ServerReadyResponse(ready=is_ready))
            case "ServerMetadata":
                return _to_answer(
                    service_pb2.ServerMetadataResponse(name="strongroom", version="1")
                )
            case "ModelReady":
                return await self._answer_ready(request)
            case "ModelMetadata":
                return await self._answer_metadata(request)
            case "ModelInfer" | "ModelStreamInfer":
                return await self._infer(request)
        raise NotOfferedError

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """The error's text: a status' details, or a message of its own in a stream."""
        body = error.detail.encode()
        if request.segments[-1] == STREAM:
            message = service_pb2.ModelStreamInferResponse(error_message=error.detail)
            message.infer_response.parameters["error_code"].string_param = error.code
            body = message.SerializeToString()
        return Answer(error.http_status, body, _CONTENT_TYPE)

    async def authenticate(self, request: Request) -> Caller:
        """Who calls.

        Raises:
            AuthenticationError, AccountSuspendedError: Nobody who may.
        """
        request.caller = await self.gateway.authenticator.authenticate(request, allow_basic=True)
        return request.caller

    async def _answer_ready(self, request: Request) -> Answer:
        offer = await self._find(request, service_pb2.ModelReadyRequest)
        try:
            await self.gateway.routes.pick(offer.version_id)
        except ModelNotReadyError:
            return _to_answer(service_pb2.ModelReadyResponse(ready=False))
        return _to_answer(service_pb2.ModelReadyResponse(ready=True))

    async def _answer_metadata(self, request: Request) -> Answer:
        offer = await self._find(request, service_pb2.ModelMetadataRequest)
        return _to_answer(service_pb2.ModelMetadataResponse(**render_metadata(offer)))

    async def _find(self, request: Request, kind: Any) -> Offer:
        caller = await self.authenticate(request)
        self.gateway.limits.admit_read(caller)
        caller.require(PREDICT, READ)
        message = parse(kind, await request.protocol())
        reference = parse_reference(to_reference(message.name, message.version))
        return await self.gateway.catalog.find(reference, caller)

    async def _infer(self, request: Request) -> Answer:
        request.prediction_id = request.id
        caller = await self.authenticate(request)
        keyed = await read_keyed_body(self.gateway, request, caller, read=_read_message)
        if keyed.earlier is not None:
            row = await self.gateway.native.find_row(caller, keyed.earlier)
            stored = InferAnswer.from_stored(take_output(row))
            replayed = self._render(request, stored, cost_nanos=row["cost_nanos"])
            replayed.headers.append(REPLAYED)
            return replayed
        is_streamed = request.segments[-1] == STREAM
        message = parse(service_pb2.ModelInferRequest, keyed.body)
        document, octets = to_document(message, is_streamed=is_streamed)
        read_document(document)
        reference = parse_reference(to_reference(message.model_name, message.model_version))
        offer = await self.gateway.catalog.find(reference, caller)
        request.offer = offer
        asked = read_inference(request, offer, document, octets)
        if is_streamed and _is_wanted_in_pieces(asked):
            return await self._stream(request, caller, offer, asked)
        answer, cost_nanos = await self.gateway.oip.predict(
            request, caller, offer, asked, keyed.claim, protocol=PROTOCOL
        )
        return self._render(request, answer, cost_nanos=cost_nanos)

    async def _stream(
        self, request: Request, caller: Caller, offer: Offer, asked: Inference
    ) -> Answer:
        """Send the pieces as they come; the answer is the last response, with all the rest."""
        streamed = offer.interface.streamed_output
        assert streamed is not None
        predictor = self.gateway.predictor
        prediction = predictor.begin(
            request, caller, offer, protocol=PROTOCOL, rows=asked.rows, claim=None
        )
        shown = {"name": streamed.name, "datatype": streamed.datatype, "shape": [1, 1]}
        parameters: dict[str, bool | int | str] = {
            "inference_id": to_public(request.id),
            _FINAL: False,
        }

        def render(piece: str) -> bytes:
            octets = pack(streamed.datatype, _to_array(piece))
            answer = InferAnswer({**asked.head, "outputs": [shown]}, [octets])
            return _wrap(to_response(answer, parameters)).SerializeToString()

        outlet = MessageOutlet(request, cast("MessageCall", request.protocol))
        delivery = Delivery(offer.interface, outlet, render)
        await predictor.run_stream(prediction, asked.tensors, delivery)
        # The pieces have said it all.
        rest = asked.render({**delivery.beside, streamed.name: _to_array("")})
        return self._render(request, rest, cost_nanos=prediction.gross_nanos)

    def _render(self, request: Request, answer: InferAnswer, *, cost_nanos: int) -> Answer:
        # For clients that see no metadata.
        parameters: dict[str, bool | int | str] = {
            "inference_id": to_public(request.prediction_id or request.id),
            "cost_nano_usd": cost_nanos,
        }
        if request.segments[-1] != STREAM:
            return _to_answer(to_response(answer, parameters), cost_nanos=cost_nanos)
        message = _wrap(to_response(answer, {**parameters, _FINAL: True}))
        return _to_answer(message, cost_nanos=cost_nanos)


class MessageCall(Protocol):
    """The part of a call that a stream of messages needs."""

    def on_gone(self, tell: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `tell` once if the client leaves while the block runs."""

    async def send(self, message: bytes) -> None:
        """Send a message, as soon as the client takes it; raises where nobody is there."""


class MessageOutlet:
    """An outlet that answers one request with several messages.

    Args:
        request: What is answered.
        call: Where the messages go.
    """

    def __init__(self, request: Request, call: MessageCall) -> None:
        self.request = request
        self.on_gone = call.on_gone
        self.send = call.send


def _is_wanted_in_pieces(asked: Inference) -> bool:
    streamed = asked.interface.streamed_output
    return streamed is not None and any(one.output is streamed for one in asked.wanted)


def _to_array(text: str) -> np.ndarray:
    return np.array([[text.encode()]], dtype=np.object_)


def _wrap(message: Any) -> Any:
    return service_pb2.ModelStreamInferResponse(infer_response=message)


def _to_answer(message: Any, *, cost_nanos: int = 0) -> Answer:
    return Answer(200, message.SerializeToString(), _CONTENT_TYPE, cost_nanos=cost_nanos)


async def _read_message(request: Request) -> tuple[bytes, str]:
    body = await request.protocol()
    # What a key stands for must be the same octets when a retry is put together anew.
    return to_canonical(body) if "idempotency-key" in request.headers else body, ""
