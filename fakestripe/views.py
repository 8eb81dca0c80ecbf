"""How a stored object is shown: members that depend on the time, and `expand`."""

from __future__ import annotations

from typing import Any

from fakestripe import errors
from fakestripe.context import Context

Json = dict[str, Any]

EXPAND_DEPTH_MAX = 4


def show(context: Context, body: Json) -> Json:
    """The object as of now."""
    match body.get("object"):
        case "list":
            return body | {"data": [show(context, item) for item in body["data"]]}
        case "event":
            return body | {"pending_webhooks": context.store.count_pending_deliveries(body["id"])}
        case "balance_transaction":
            is_available = body["available_on"] <= context.now
            return body | {"status": "available" if is_available else "pending"}
    return body


def expand(context: Context, body: Json, paths: list[str]) -> Json:
    """Replace ids by the objects they name, along dotted paths.

    Raises:
        ApiError: A path leads to something that cannot be expanded.
    """
    for path in paths:
        parts = path.split(".")
        depth = len(parts) - (parts[0] == "data")
        if depth > EXPAND_DEPTH_MAX:
            raise errors.invalid_request(
                f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property"
            )
        body = _expand(context, body, parts, path)
    return body


def _expand(context: Context, body: Json, parts: list[str], path: str) -> Json:
    name, *rest = parts
    value = body.get(name)
    if name == "line_items" and body["object"] == "checkout.session":
        value = line_items(context, body["id"])
    if isinstance(value, list) and name == "data":
        return body | {name: [_expand(context, item, rest, path) for item in value]}
    if isinstance(value, str):
        found = context.store.find(value) if name != "id" else None
        if found is None:
            raise _not_expandable(path)
        value = show(context, found)
    if value is None and name in body:
        return body  # Nothing there yet, which is no mistake.
    if not isinstance(value, dict):
        raise _not_expandable(path)
    return body | {name: _expand(context, value, rest, path) if rest else value}


def line_items(context: Context, session_id: str) -> Json:
    """What a Checkout Session sells."""
    return {
        "object": "list",
        "data": context.store.find_private(session_id)["line_items"],
        "has_more": False,
        "url": f"/v1/checkout/sessions/{session_id}/line_items",
    }


def _not_expandable(path: str) -> errors.ApiError:
    return errors.invalid_request(
        f"This property cannot be expanded ({path}). You may want to try expanding another "
        "property.",
        param="expand",
    )
