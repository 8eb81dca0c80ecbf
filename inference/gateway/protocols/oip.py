"""`/v2`: the Open Inference Protocol, with tensors as JSON.

Names, types and shapes are those of the version's interface; every tensor has the batch as
its first axis. The values go through the same check as those of /v1, row by row, so that no
limit of the interface can be walked around here. What controls a server (repository, shared
memory, logs) does not exist.

Source: Open Inference Protocol, REST; Triton, classification and shared memory extensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.gateway.auth import PREDICT, READ, Caller
from inference.gateway.catalog import Offer, parse_reference
from inference.gateway.config import TENSORS_MAX
from inference.gateway.errors import OutputRemovedError
from inference.gateway.http import Answer, Request, json_answer, parse_json
from inference.gateway.idempotency import Claim, read_key
from inference.triton import tensors
from inference.triton.errors import OutputError
from marketplace.core.errors import (
    FieldError,
    InvalidInputError,
    MarketplaceError,
    MethodNotAllowedError,
    NotFoundError,
)
from strongroom.errors import InputError
from strongroom.interface import Input, Interface, Output

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

PROTOCOL = "oip"
_MEMBERS = frozenset({"id", "parameters", "inputs", "outputs"})
_TENSOR_MEMBERS = frozenset({"name", "shape", "datatype", "parameters", "data"})
# They change what is answered, or where it goes; silence would be mistaken for consent.
_UNSUPPORTED = ("classification", "shared_memory_region", "binary_data_size")
_ID_LENGTH_MAX = 256


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
                return json_answer({"name": "strongroom", "version": "1", "extensions": []})
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
        if rest == ["infer"]:
            request.prediction_id = request.id
        caller = await self._authenticate(request)
        match [request.method, *rest]:
            case ["POST", "infer"]:
                return await self._infer(request, caller, model)
            case ["GET"]:
                caller.require(PREDICT, READ)
                offer = await self.gateway.catalog.find(parse_reference(model), caller)
                return json_answer(_render_metadata(offer))
            case ["GET", "ready"]:
                caller.require(PREDICT, READ)
                offer = await self.gateway.catalog.find(parse_reference(model), caller)
                # Raises what a prediction would be refused with now.
                await self.gateway.routes.pick(offer.version_id)
                return json_answer({"name": offer.model, "ready": True})
            case [_] | [_, "infer" | "ready"]:
                raise MethodNotAllowedError
        raise NotFoundError

    async def _authenticate(self, request: Request) -> Caller:
        authenticator = self.gateway.authenticator
        return await authenticator.authenticate(
            request.headers.get("authorization"), allow_basic=True
        )

    async def _infer(self, request: Request, caller: Caller, model: str) -> Answer:
        caller.require(PREDICT)
        _refuse_binary(request)
        key = read_key(request.headers)
        body = await request.read_body()
        claim = None
        if key is not None:
            claim = Claim(caller.account_id, key, request.fingerprint(body), request.id)
            earlier = await self.gateway.idempotency.find(
                claim.account_id, claim.key, claim.fingerprint
            )
            if earlier is not None:
                request.prediction_id = earlier
                row = await self.gateway.native.find_row(caller, earlier)
                if row["output"] is None:
                    raise OutputRemovedError
                return json_answer(
                    row["output"],
                    headers=[("idempotent-replayed", "true")],
                    cost_nanos=row["cost_nanos"],
                )
        document = _read_document(parse_json(body))
        offer = await self.gateway.catalog.find(parse_reference(model), caller)
        wanted = _choose_outputs(offer.interface, document.get("outputs"))
        rows = read_rows(offer.interface, document["inputs"])
        predictor = self.gateway.predictor
        prediction = predictor.begin(
            request, caller, offer, protocol=PROTOCOL, rows=len(rows), claim=claim
        )
        head = {"model_name": offer.model, "model_version": str(offer.number)}
        if document.get("id"):
            head["id"] = document["id"]

        def decode(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
            return head | {"outputs": _render_outputs(offer.interface, wanted, outputs, len(rows))}

        answer = await predictor.run(
            prediction, tensors.encode(offer.interface, rows), decode, is_gone=request.is_gone
        )
        return json_answer(answer, cost_nanos=prediction.gross_nanos)


def read_rows(interface: Interface, given: Sequence[Any]) -> list[dict[str, Any]]:
    """Make rows of named values out of the request's tensors, and check them.

    Raises:
        InvalidInputError: Naming the tensor.
    """
    by_name: dict[str, list[Any]] = {}
    known = {one.name: one for one in interface.inputs}
    count = -1
    for index, tensor in enumerate(given):
        place = f"/inputs/{index}"
        name = _read_name(tensor, place)
        if name not in known:
            raise _invalid(f"{place}/name", f"The model has no input {name[:64]!r}.")
        if name in by_name:
            raise _invalid(f"{place}/name", f"The input {name!r} is given twice.")
        values, rows = _read_tensor(known[name], tensor, place, interface.batch.max_size)
        if count not in (-1, rows):
            raise _invalid(f"{place}/shape", f"Input {name!r} has {rows} rows, not {count}.")
        by_name[name], count = values, rows
    checked = []
    for index in range(max(count, 1)):
        row = {name: values[index] for name, values in by_name.items()}
        try:
            checked.append(interface.check_input(row, pointer=""))
        except InputError as error:
            fault = error.errors[0]
            name, _, path = fault["pointer"][1:].partition("/")
            name = name.replace("~1", "/").replace("~0", "~")
            where = f"row {index}" + (f", at {path}" if path else "")
            detail = f"Input {name!r}, {where}: {fault['detail']}"
            raise _invalid("/inputs", detail) from error
    return checked


def _read_name(tensor: Any, place: str) -> str:
    if not isinstance(tensor, dict):
        raise _invalid(place, "An input is an object with name, shape, datatype and data.")
    name = tensor.get("name")
    if not isinstance(name, str):
        raise _invalid(f"{place}/name", "Every input has a name.")
    for member in tensor:
        if member not in _TENSOR_MEMBERS:
            raise _invalid(place, f"Input {name[:64]!r} has an unknown member.")
    _refuse_parameters(tensor.get("parameters"), place)
    return name


def _read_tensor(one: Input, tensor: Mapping[str, Any], place: str, rows_max: int) -> Any:
    """The values by row, each as /v1 would have it, and the number of rows."""
    if tensor.get("datatype") != one.datatype:
        detail = f"Input {one.name!r} has the datatype {one.datatype}."
        raise _invalid(f"{place}/datatype", detail)
    shape = tensor.get("shape")
    if not _fits(shape, one.wire_shape):
        shown = ", ".join(map(str, (-1, *one.wire_shape)))
        detail = f"Input {one.name!r} has the shape [{shown}], with the batch first."
        raise _invalid(f"{place}/shape", detail)
    assert isinstance(shape, list)
    rows = shape[0]
    if not 1 <= rows <= rows_max:
        detail = f"Input {one.name!r} has {rows} rows; the model takes 1 to {rows_max} at once."
        raise _invalid(f"{place}/shape", detail)
    elements = _flatten(tensor.get("data"), shape)
    if elements is None:
        detail = f"Input {one.name!r}: the data does not fill the shape {shape}."
        raise _invalid(f"{place}/data", detail)
    if not one.shape:
        return elements, rows
    width = len(elements) // rows
    parts = [elements[at : at + width] for at in range(0, len(elements), width)]
    if sum(length == -1 for length in one.shape) > 1:
        # With two variable axes a flat list has no shape.
        parts = [_nest(part, shape[1:]) for part in parts]
    return parts, rows


def _fits(shape: Any, expected: Sequence[int]) -> bool:
    if type(shape) is not list or len(shape) != len(expected) + 1:
        return False
    if any(type(length) is not int or length < 1 for length in shape):
        return False
    return all(length in (-1, got) for length, got in zip(expected, shape[1:], strict=True))


def _flatten(data: Any, shape: Sequence[int]) -> list[Any] | None:
    """All elements of flat or nested data; None if they do not fill the shape."""
    if type(data) is not list:
        return None
    if data and type(data[0]) is not list:
        return data if len(data) == prod(shape) else None
    level: list[Any] = [data]
    for length in shape:
        if any(type(one) is not list or len(one) != length for one in level):
            return None
        level = list(chain.from_iterable(level))
    return level


def _nest(elements: list[Any], shape: Sequence[int]) -> list[Any]:
    for length in reversed(shape[1:]):
        elements = [elements[at : at + length] for at in range(0, len(elements), length)]
    return elements


def _read_document(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _invalid("", "The body must be an object with the member `inputs`.")
    for name in document:
        if name not in _MEMBERS:
            raise _invalid("", f"The member {name[:64]!r} is not known here.")
    _refuse_parameters(document.get("parameters"), "")
    given = document.get("inputs")
    if type(given) is not list:
        raise _invalid("/inputs", "Is required: a list of tensors.")
    if len(given) > TENSORS_MAX:
        raise _invalid("/inputs", f"At most {TENSORS_MAX} tensors are allowed.")
    name = document.get("id")
    is_name = type(name) is str and len(name) <= _ID_LENGTH_MAX and "\x00" not in name
    if name is not None and not is_name:
        raise _invalid("/id", f"Must be a text of at most {_ID_LENGTH_MAX} characters, none NUL.")
    return document


def _refuse_parameters(parameters: Any, place: str) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise _invalid(f"{place}/parameters", "Must be an object.")
    for name in _UNSUPPORTED:
        if parameters.get(name):
            raise _invalid(f"{place}/parameters/{name}", f"{name} is not offered here.")


def _refuse_binary(request: Request) -> None:
    if request.headers.get("inference-header-content-length") is not None:
        raise _invalid("", "Send the tensors as JSON (binary_data=False).")
    if request.headers.get("content-encoding") not in (None, "identity"):
        raise _invalid("", "Send the body without compression.")


def _choose_outputs(interface: Interface, wanted: Any) -> list[Output]:
    offered = {one.name: one for one in interface.visible_outputs if one.kind != "label"}
    if not offered:
        raise _invalid("", "The model answers labels, which are no tensors: call it under /v1.")
    if wanted is None or wanted == []:
        return list(offered.values())
    if type(wanted) is not list or len(wanted) > TENSORS_MAX:
        raise _invalid("/outputs", f"Must be a list of at most {TENSORS_MAX} outputs.")
    chosen: dict[str, Output] = {}
    for index, one in enumerate(wanted):
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in offered:
            raise _invalid(f"/outputs/{index}", f"The model has no output {str(name)[:64]!r}.")
        _refuse_parameters(one.get("parameters"), f"/outputs/{index}")
        chosen[name] = offered[name]
    return list(chosen.values())


def _render_outputs(
    interface: Interface, wanted: Sequence[Output], outputs: Mapping[str, np.ndarray], rows: int
) -> list[dict[str, Any]]:
    decoded = tensors.decode(interface, outputs)
    if len(decoded) != rows:
        raise OutputError(f"the model answered {len(decoded)} rows, not {rows}")
    rendered = []
    for one in wanted:
        data: list[Any] = [row[one.name] for row in decoded]
        for _ in one.shape:
            data = list(chain.from_iterable(data))
        shape = list(outputs[one.name].shape)
        rendered.append({"name": one.name, "datatype": one.datatype, "shape": shape, "data": data})
    return rendered


def _render_metadata(offer: Offer) -> dict[str, Any]:
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


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
