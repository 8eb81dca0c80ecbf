"""`run_model`: one prediction, which goes the way of every other one.

A model that streams tells its pieces as progress if the client asks for that; without, and with an
idempotency key, the whole answer comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from inference.gateway import metering
from inference.gateway.auth import PREDICT, Caller
from inference.gateway.catalog import parse_reference
from inference.gateway.database import Row
from inference.gateway.delivery import Delivery
from inference.gateway.errors import MaximumCostError
from inference.gateway.events import CONTENT_TYPE, EventStream, render_data, streamed
from inference.gateway.http import Answer, Request, json_answer
from inference.gateway.idempotency import Claim, check_key
from inference.gateway.input_files import fetch_named
from inference.gateway.prediction import Prediction
from inference.gateway.protocols.keyed import find_earlier, take_output
from inference.gateway.protocols.mcp_arguments import Arguments
from inference.gateway.protocols.mcp_content import (
    ToolAnswer,
    describe_cost,
    render_answer,
    render_failure,
    split_media,
    to_dollars,
)
from inference.gateway.protocols.mcp_message import Message
from inference.gateway.protocols.mcp_reply import reply
from inference.gateway.protocols.native import refuse_input
from inference.triton import tensors
from inference.triton.errors import OutputError
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import to_public
from strongroom.errors import InputError

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "mcp"


async def run(
    gateway: Gateway, request: Request, caller: Caller, message: Message, arguments: Arguments
) -> Answer:
    """Run a model and answer; the answer may have left in events by then.

    Raises:
        MarketplaceError: What is wrong with the call, or with us. Nothing was charged, unless a
            stream broke off.
    """
    caller.require(PREDICT)
    token = message.progress_token
    model = arguments.text("model")
    limit_s = arguments.seconds("timeout_s")
    maximum_nanos = arguments.dollars("max_cost_usd")
    request.prediction_id = request.id
    if limit_s is not None:
        request.deadline_s = min(request.deadline_s, limit_s)
    claim = _read_claim(request, caller, arguments)
    earlier = None
    if claim is not None:
        earlier = await find_earlier(gateway, request, caller, claim)
    if earlier is not None:
        row = await gateway.native.find_row(caller, earlier)
        replayed = describe_row(gateway, row, take_output(row))
        replayed.document["is_replay"] = True
        return render(message, replayed)
    # Who repeats a call gets its answer; nothing new is begun.
    caller.require_paid()
    offer = await gateway.catalog.find(parse_reference(model), caller)
    request.offer = offer
    try:
        checked = offer.interface.check_input(arguments.pick("input")["input"])
    except InputError as error:
        raise refuse_input(error.errors) from error
    prediction = gateway.predictor.begin(
        request, caller, offer, protocol=PROTOCOL, rows=1, claim=claim
    )
    named = await fetch_named(gateway.files, caller.account_id, offer.interface, checked)
    given = tensors.encode(offer.interface, [named])
    _check_maximum(prediction, given, maximum_nanos)
    accepted = request.headers.get("accept") or ""
    can_stream = offer.interface.streamed_output is not None and CONTENT_TYPE in accepted
    if token is not None and can_stream and claim is None:
        return await _stream(gateway, request, message, prediction, given)

    def decode(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        rows = tensors.decode(offer.interface, outputs, keep=prediction.keep)
        if len(rows) != 1:
            raise OutputError(f"the model answered {len(rows)} rows to one")
        return rows[0]

    output = await gateway.predictor.run(prediction, given, decode, request=request)
    return render(message, _describe(gateway, prediction, output))


def render(message: Message, answer: ToolAnswer) -> Answer:
    """The reply with what a tool gives."""
    return json_answer(reply(message, render_answer(answer)), cost_nanos=answer.cost_nanos)


async def _stream(
    gateway: Gateway,
    request: Request,
    message: Message,
    prediction: Prediction,
    given: list[Tensor],
) -> Answer:
    token, count = message.progress_token, 0

    def render_piece(piece: str) -> str:
        nonlocal count
        count += 1
        params = {"progressToken": token, "progress": count, "message": piece}
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        return render_data(note)

    def render_error(error: MarketplaceError) -> str:
        return render_data(reply(message, render_failure(request, error)))

    async with EventStream(request, render_error) as events:
        delivery = Delivery(prediction.offer.interface, events, render_piece)
        row = await gateway.predictor.run_stream(prediction, given, delivery)
        answer = _describe(gateway, prediction, row)
        await events.finish(render_data(reply(message, render_answer(answer))))
    return streamed(cost_nanos=prediction.gross_nanos)


def _read_claim(request: Request, caller: Caller, arguments: Arguments) -> Claim | None:
    """The right to the key of the arguments: of model and input, however the call is written."""
    if "idempotency_key" not in arguments:
        return None
    key = arguments.text("idempotency_key")
    check_key(key)
    wanted = arguments.pick("model", "input")
    body = orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS)
    return Claim(caller.account_id, key, request.fingerprint(body), request.id)


def _check_maximum(prediction: Prediction, given: list[Tensor], maximum_nanos: int | None) -> None:
    """Refuse what could cost more than its caller wants; before any money is held."""
    if maximum_nanos is None:
        return
    metering.bound(prediction, [given])
    if prediction.gross_nanos > maximum_nanos:
        could, may = to_dollars(prediction.gross_nanos), to_dollars(maximum_nanos)
        raise MaximumCostError(f"It could cost ${could}, and max_cost_usd is ${may}.")


def _describe(gateway: Gateway, prediction: Prediction, output: Mapping[str, Any]) -> ToolAnswer:
    kept, media = split_media(output)
    public_id = to_public(prediction.id)
    document = {
        "prediction_id": public_id,
        "model": prediction.offer.model,
        "version": prediction.offer.wire_version,
        "status": "succeeded",
        "output": kept,
        **describe_cost(prediction.gross_nanos),
        "predict_time_s": prediction.predict_time_s,
        "receipt_url": receipt_url(gateway, public_id),
        "is_replay": False,
    }
    return ToolAnswer(document, media, prediction.gross_nanos)


def describe_row(gateway: Gateway, row: Row, output: Any) -> ToolAnswer:
    """What every stored prediction is told with."""
    known = gateway.native.render_row(row)
    # Other protocols keep answers of other forms, such as a list of outputs.
    whole = output if isinstance(output, dict) or output is None else {"answer": output}
    kept, media = (None, []) if whole is None else split_media(whole)
    document = {
        "prediction_id": known["id"],
        "model": known["model"],
        "version": known["version"],
        "status": known["status"],
        "output": kept,
        **describe_cost(row["cost_nanos"]),
        "predict_time_s": known["metrics"]["predict_time"],
        "receipt_url": receipt_url(gateway, known["id"]),
    }
    return ToolAnswer(document, media, row["cost_nanos"])


def receipt_url(gateway: Gateway, public_id: str) -> str:
    """Where the proof of a charge is read."""
    return f"{gateway.config.gateway_url}/v1/predictions/{public_id}/receipt"
