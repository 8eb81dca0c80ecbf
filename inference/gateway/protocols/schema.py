"""A version's interface as the OpenAPI schema that Replicate's clients read.

`Input` has a property for each input, in order; `Output` one for each visible output.

Source: cog, `docs/http.md`; OpenAPI 3.0, "Schema Object".
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marketplace.core.clock import to_wire
from strongroom.interface import Input, Interface, Output

_TYPES = {"text": "string", "choice": "string", "number": "number", "integer": "integer"}
_TYPES |= {"boolean": "boolean"}


def render_version(wire_version: str, created_at: datetime, interface: Interface) -> dict[str, Any]:
    """A version as /v1 shows it."""
    return {
        "id": wire_version,
        "created_at": to_wire(created_at),
        "cog_version": "",
        "openapi_schema": render_schema(interface),
    }


def render_schema(interface: Interface) -> dict[str, Any]:
    """The OpenAPI document of a version."""
    inputs = {
        one.name: _render_input(one) | {"x-order": order}
        for order, one in enumerate(interface.inputs)
    }
    outputs = {one.name: _render_output(one) for one in interface.visible_outputs}
    required = [one.name for one in interface.inputs if one.required]
    schemas: dict[str, Any] = {
        "Input": {"type": "object", "title": "Input", "properties": inputs},
        "Output": {"type": "object", "title": "Output", "properties": outputs},
    }
    if required:
        schemas["Input"]["required"] = required
    return {
        "openapi": "3.0.2",
        "info": {"title": "Strongroom", "version": "1"},
        "paths": {},
        "components": {"schemas": schemas},
    }


def _render_input(one: Input) -> dict[str, Any]:
    if one.kind == "tensor":
        schema = _render_tensor(one.datatype, one.shape)
    else:
        schema = {"type": _TYPES[one.kind]}
    schema["title"] = one.name
    for name in ("description", "minimum", "maximum"):
        value = getattr(one, name)
        if value not in ("", None):
            schema[name] = value
    if one.format:
        schema |= {"format": "uri", "x-format": one.format}
    elif one.kind == "text":
        schema["maxLength"] = one.max_length
    if one.choices:
        schema["enum"] = list(one.choices)
    if not one.required:
        schema["default"] = one.default
    return schema


def _render_output(one: Output) -> dict[str, Any]:
    if one.kind == "label":
        properties = {"label": {"type": "string"}, "score": {"type": "number"}}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
    elif one.media_type:
        schema = _render_media(one)
    elif one.kind == "tensor":
        schema = _render_tensor(one.datatype, one.shape)
    else:
        schema = {"type": _TYPES[one.kind]}
    if one.description:
        schema["description"] = one.description
    return schema | {"title": one.name}


def _render_media(one: Output) -> dict[str, Any]:
    # A file is an address, as in Replicate's own schemas.
    schema: dict[str, Any] = {"type": "string", "format": "uri", "x-media-type": one.media_type}
    if one.sample_rate_hz:
        schema["x-sample-rate-hz"] = one.sample_rate_hz
    return schema


def _render_tensor(datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number"}
    if datatype == "BOOL":
        schema = {"type": "boolean"}
    elif not datatype.startswith("FP"):
        schema = {"type": "integer"}
    for length in reversed(shape):
        schema = {"type": "array", "items": schema}
        if length > 0:
            schema |= {"minItems": length, "maxItems": length}
    return schema | {"x-datatype": datatype}
