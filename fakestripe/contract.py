"""The contract with Stripe: what a request and an answer must look like.

Requests are decoded, typed by their schema and checked; answers and stored objects are
checked before anyone sees them. The server uses it on every request, and the tests hang
it into the SDK's HTTP client, so that both sides are held to Stripe's own description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema_rs

from fakestripe import errors, form, openapi

Json = dict[str, Any]

_DOCUMENT = "urn:stripe"
_JSON = "application/json"


@dataclass(frozen=True)
class Operation:
    """One method of one address of the API."""

    method: str
    path: str
    media: str
    body: Json
    query: Json
    answer: Json
    registry: Any = field(repr=False)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches addresses of this operation; its groups are the ids in it."""
        return re.compile(re.sub(r"\\\{[^}]+\\\}", "([^/]+)", re.escape(self.path)))

    @cached_property
    def input_validator(self) -> Any:
        return _validator(self.input_schema, self.registry)

    @cached_property
    def answer_validator(self) -> Any:
        return _validator(self.answer, self.registry)

    @property
    def input_schema(self) -> Json:
        """GET and DELETE carry parameters in the address, POST in the body.

        The description puts those of DELETE into the body too, where no client sends them.
        """
        if self.method == "DELETE":
            return self.body or self.query
        return self.body if self.method == "POST" else self.query


class Contract:
    """Stripe's description, compiled on first use per operation."""

    def __init__(self, converted: Json) -> None:
        self.api_version: str = converted["api_version"]
        self._schemas: Json = converted["schemas"]
        document = {"components": {"schemas": _absolute(self._schemas)}}
        self._registry = jsonschema_rs.Registry([(_DOCUMENT, document)])
        self._operations = [
            Operation(**{**entry, "answer": _absolute(entry["answer"])}, registry=self._registry)
            for entry in converted["operations"]
        ]
        # Fixed addresses first: /v1/charges/search is no charge named "search".
        self._operations.sort(key=lambda operation: operation.path.count("{"))
        self._objects: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: Path) -> Contract:
        """The contract, converted once and cached in `folder`."""
        return cls(openapi.load_converted(folder))

    def find(self, method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
        """The operation at an address and the ids in the address."""
        for operation in self._operations:
            if operation.method == method:
                match = operation.pattern.fullmatch(path)
                if match:
                    return operation, match.groups()
        return None

    def parse_input(self, operation: Operation, text: str) -> Json:
        """Decode, type and check the parameters of a request.

        Raises:
            ApiError: What Stripe answers to such parameters: unknown, missing, mistyped.
        """
        if operation.method == "POST" and operation.media == _JSON:
            return self._parse_json(operation, text)
        try:
            decoded = form.decode(text)
        except form.FormError as error:
            raise errors.invalid_request(f"Invalid request: {error}") from error
        typed = coerce(decoded, operation.input_schema)
        self.check_input(operation, typed)
        return typed if isinstance(typed, dict) else {}

    def _parse_json(self, operation: Operation, text: str) -> Json:
        """API v2 carries JSON, whose values have their types already."""
        try:
            params = json.loads(text or "{}")
        except ValueError as error:
            raise errors.invalid_request("Invalid request: the body is no JSON") from error
        self.check_input(operation, params)
        return params if isinstance(params, dict) else {}

    def check_input(self, operation: Operation, params: Any) -> None:
        """Refuse parameters that Stripe's description does not allow."""
        faults = list(operation.input_validator.iter_errors(params))
        if faults:
            raise _refusal(faults)

    def answer_faults(self, operation: Operation, status: int, body: Any) -> list[str]:
        """What is wrong with an answer; empty if it keeps the contract."""
        if status >= 400:
            return self.object_faults("error", body)
        return _describe(operation.answer_validator.iter_errors(body))

    def object_faults(self, name: str, body: Any) -> list[str]:
        """What is wrong with an object of a named schema such as `checkout.session`."""
        if name not in self._objects:
            schema = {"$ref": f"{_DOCUMENT}#/components/schemas/{name}"}
            self._objects[name] = _validator(schema, self._registry)
        return _describe(self._objects[name].iter_errors(body))


def coerce(value: Any, schema: Json) -> Any:
    """Give texts of a form the types that the schema asks for.

    What does not fit stays as it is, for the validator to name it.
    """
    for option in schema.get("anyOf", ()):
        candidate = coerce(value, option)
        if _fits(candidate, option):
            return candidate
    match schema.get("type"):
        case "integer" if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            return int(value)
        case "number" if isinstance(value, str) and re.fullmatch(
            r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value
        ):
            return float(value)
        case "boolean" if value in ("true", "false"):
            return value == "true"
        case "array" if isinstance(value, list):
            return [coerce(item, schema.get("items", {})) for item in value]
        case "array" if isinstance(value, dict) and all(key.isdecimal() for key in value):
            ordered = [value[key] for key in sorted(value, key=int)]
            return [coerce(item, schema.get("items", {})) for item in ordered]
        case "object" if isinstance(value, dict):
            return _coerce_members(value, schema)
    return value


def _coerce_members(value: Json, schema: Json) -> Json:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    other = rest if isinstance(rest, dict) else {}
    return {name: coerce(member, known.get(name, other)) for name, member in value.items()}


_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "string": str,
}


def _fits(value: Any, schema: Json) -> bool:
    """Whether the outer type is right; what is inside the validator will say."""
    if "anyOf" in schema:
        return any(_fits(value, option) for option in schema["anyOf"])
    kind = schema.get("type")
    if not isinstance(kind, str) or not isinstance(value, _PYTHON_TYPES.get(kind, object)):
        return False
    return "enum" not in schema or value in schema["enum"]


def _validator(schema: Json, registry: Any) -> Any:
    return jsonschema_rs.Draft202012Validator(schema, registry=registry)


def _absolute(node: Any) -> Any:
    """References that also work from schemas outside the document."""
    if isinstance(node, list):
        return [_absolute(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name: _DOCUMENT + value if name == "$ref" and isinstance(value, str) else _absolute(value)
        for name, value in node.items()
    }


def _describe(faults: Iterator[Any]) -> list[str]:
    return [f"{_field(fault.instance_path) or '.'}: {fault.message[:300]}" for fault in faults]


def _field(path: list[str | int]) -> str:
    """`line_items[0][quantity]`, the form in which Stripe names a parameter."""
    first, *rest = path or [""]
    return str(first) + "".join(f"[{part}]" for part in rest)


def _refusal(faults: list[Any]) -> errors.ApiError:
    """Stripe's own words for the first fault; unknown parameters come before all others."""
    leaves = [leaf for fault in faults for leaf in _leaves(fault)]
    leaves.sort(key=lambda fault: fault.kind.name != "additionalProperties")
    fault = leaves[0]
    where = list(fault.instance_path)
    match fault.kind.name:
        case "additionalProperties":
            unknown = [_field([*where, name]) for name in fault.kind.unexpected]
            return errors.unknown_parameters(unknown)
        case "required":
            return errors.missing_parameter(_field([*where, fault.kind.property]))
        case "type":
            return errors.mistyped(_field(where), fault.kind.types[0], fault.instance)
        case "enum":
            return errors.not_an_option(_field(where), fault.kind.options)
        case "maxLength":
            return errors.too_long(_field(where), fault.instance, fault.kind.limit)
    return errors.invalid_request(f"Invalid {_field(where)}: {fault.message}", param=_field(where))


def _leaves(fault: Any) -> list[Any]:
    """The fault inside the alternative that came closest, for `anyOf`."""
    if fault.kind.name != "anyOf":
        return [fault]
    branches = [
        [leaf for item in branch for leaf in _leaves(item)] for branch in fault.kind.context
    ]

    def depth(branch: list[Any]) -> int:
        return max((len(leaf.instance_path) for leaf in branch), default=0)

    return max((branch for branch in branches if branch), key=depth)
