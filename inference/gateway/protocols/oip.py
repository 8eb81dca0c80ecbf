"""`/v2`: the Open Inference Protocol, with tensors as JSON or as octets behind it.

Names, types and shapes are those of the version's interface; every tensor has the batch as
its first axis. The values are held to the same interface as those of /v1, so that no limit
of it can be walked around here. What controls a server (repository, shared memory, logs) does
not exist.

Source: Open Inference Protocol, REST; Triton, binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import Offer, parse_reference
from inference.gateway.compression import read_plain_body
from inference.gateway.database import Row
from inference.gateway.http import Answer, Request, json_answer, parse_json
from inference.gateway.idempotency import Claim
from inference.gateway.protocols.keyed import REPLAYED, read_keyed_body, replay, take_output
from inference.gateway.protocols.oip_answer import InferAnswer, render_answer
from inference.gateway.protocols.oip_generate import Generation
from inference.gateway.protocols.oip_request import (
    WantedOutput,
    choose_outputs,
    read_document,
    read_json_length,
    read_tensors,
    read_timeout_s,
)
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError, MethodNotAllowedError, NotFoundError
from strongroom.interface import Input, Interface, Output

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "oip"
_EXTENSIONS = ["binary_tensor_data"]


class OIPProtocol:
    """Answers the routes below /v2."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def answer(self, request: Request) -> Answer:
        """Find the route and answer.

        Raises:
            MarketplaceError: What is wrong with the request, or with us.
        """
        match [request.method, *request.segments[1:]]:
            case ["GET"]:
                return json_answer(
                    {"name": "strongroom", "version": "1", "extensions": _EXTENSIONS}
                )
            case ["GET", "health", "live"]:
                return json_answer({"live": True})
            case ["GET", "health", "ready"]:
                is_ready = self.gateway.is_ready()
                return json_answer({"ready": is_ready}, status=200 if is_ready else 503)
            case [_, "models", owner, name, *rest]:
                return await self._answer_model(request, f"{owner}/{name}", rest)
        raise NotFoundError

    def render_error(self, request: Request, error: MarketplaceError) -> Answer:
        """The error as this protocol has it: one text."""
        return json_answer({"error": error.detail}, status=error.http_status)

    async def _answer_model(self, request: Request, model: str, rest: list[str]) -> Answer:
        if rest[:1] == ["versions"] and len(rest) > 1:
            model, rest = f"{model}:{rest[1]}", rest[2:]
        if rest in (["infer"], ["generate"], ["generate_stream"]):
            request.prediction_id = request.id
        caller = await self._authenticate(request)
        request.caller = caller
        if request.method == "GET":
            self.gateway.limits.admit_read(caller)
        match [request.method, *rest]:
            case ["POST", "infer"]:
                return await self._infer(request, caller, model)
            case ["POST", "generate" | "generate_stream" as action]:
                return await self._generate(request, caller, model, action)
            case ["GET"]:
                caller.require(PREDICT, READ)
                offer = await self.gateway.catalog.find(parse_reference(model), caller)
                return json_answer(render_metadata(offer))
            case ["GET", "ready"]:
                caller.require(PREDICT, READ)
                offer = await self.gateway.catalog.find(parse_reference(model), caller)
                # Raises what a prediction would be refused with now.
                await self.gateway.routes.pick(offer.version_id)
                return json_answer({"name": offer.model, "ready": True})
            case [_] | [_, "infer" | "generate" | "generate_stream" | "ready"]:
                raise MethodNotAllowedError
        raise NotFoundError

    async def _authenticate(self, request: Request) -> Caller:
        return await self.gateway.authenticator.authenticate(request, allow_basic=True)

    async def _infer(self, request: Request, caller: Caller, model: str) -> Answer:
        keyed = await read_keyed_body(self.gateway, request, caller, read=_read_body)
        if keyed.earlier is not None:
            return _replay(await self.gateway.native.find_row(caller, keyed.earlier))
        json_bytes = read_json_length(request.headers, len(keyed.body))
        document = read_document(parse_json(keyed.body[:json_bytes]))
        octets = None if json_bytes is None else memoryview(keyed.body)[json_bytes:]
        offer = await self.gateway.catalog.find(parse_reference(model), caller)
        request.offer = offer
        asked = read_inference(request, offer, document, octets)
        answer, cost_nanos = await self.predict(
            request, caller, offer, asked, keyed.claim, protocol=PROTOCOL
        )
        return answer.to_http(cost_nanos=cost_nanos)

    async def _generate(self, request: Request, caller: Caller, model: str, action: str) -> Answer:
        keyed = await read_keyed_body(self.gateway, request, caller)
        if keyed.earlier is not None:
            return replay(await self.gateway.native.find_row(caller, keyed.earlier))
        document = parse_json(keyed.body)
        offer = await self.gateway.catalog.find(parse_reference(model), caller)
        request.offer = offer
        generation = Generation(offer, document)
        predictor = self.gateway.predictor
        prediction = predictor.begin(
            request, caller, offer, protocol=PROTOCOL, rows=1, claim=keyed.claim
        )
        run = generation.stream if action == "generate_stream" else generation.answer
        return await run(request, predictor, prediction)

    async def predict(
        self,
        request: Request,
        caller: Caller,
        offer: Offer,
        asked: Inference,
        claim: Claim | None,
        *,
        protocol: str,
    ) -> tuple[InferAnswer, int]:
        """Run what was asked for and book it; also told is what it cost.

        Raises:
            MarketplaceError: What `Predictor.run` raises.
        """
        predictor = self.gateway.predictor
        prediction = predictor.begin(
            request, caller, offer, protocol=protocol, rows=asked.rows, claim=claim
        )
        answer = await predictor.run(
            prediction,
            asked.tensors,
            asked.render,
            request=request,
            to_stored=InferAnswer.to_stored,
        )
        return answer, prediction.gross_nanos


@dataclass(frozen=True, slots=True)
class Inference:
    """What an inference request asks for, checked."""

    interface: Interface
    head: Mapping[str, Any]
    wanted: Sequence[WantedOutput]
    tensors: Sequence[Tensor]

    @property
    def rows(self) -> int:
        """How many predictions it is charged as."""
        return self.tensors[0].shape[0]

    def render(self, outputs: Mapping[str, np.ndarray]) -> InferAnswer:
        """The answer, made of what the model answered.

        Raises:
            OutputError: It is not what the interface promises.
        """
        return render_answer(self.interface, self.head, self.wanted, outputs, rows=self.rows)


def read_inference(
    request: Request, offer: Offer, document: Mapping[str, Any], octets: memoryview | None
) -> Inference:
    """Check a request by the model's interface; it may shorten the time that it may take.

    Raises:
        InvalidInputError: Naming what is wrong.
    """
    interface = offer.interface
    wanted = choose_outputs(interface, document)
    request.deadline_s = min(request.deadline_s, read_timeout_s(document))
    given = read_tensors(interface, document["inputs"], octets)
    head = {"model_name": offer.model, "model_version": str(offer.number)}
    if document.get("id"):
        head["id"] = document["id"]
    return Inference(interface, head, wanted, given)


def render_metadata(offer: Offer) -> dict[str, Any]:
    """What a version takes and gives, in the words of the protocol."""
    interface = offer.interface
    return {
        "name": offer.model,
        "versions": [str(offer.number)],
        "platform": offer.runtime,
        "inputs": [_render_tensor(one) for one in interface.inputs],
        "outputs": [
            _render_tensor(one) for one in interface.visible_outputs if one.kind != "label"
        ],
    }


def _render_tensor(one: Input | Output) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype, "shape": [-1, *one.wire_shape]}


async def _read_body(request: Request) -> tuple[bytes, str]:
    body = await read_plain_body(request)
    json_bytes = read_json_length(request.headers, len(body))
    # Where the JSON ends is part of what was asked.
    return body, "" if json_bytes is None else f"{json_bytes}\n"


def _replay(row: Row) -> Answer:
    return InferAnswer.from_stored(take_output(row)).to_http(
        headers=[REPLAYED], cost_nanos=row["cost_nanos"]
    )
