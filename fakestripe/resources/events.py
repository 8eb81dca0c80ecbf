"""Events: what happened in the last 30 days, and whether the receiver was told."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context
from fakestripe.store import Query

Json = dict[str, Any]

KEPT_S = 30 * 86_400
TYPES_MAX = 20

_UNTOLD = (
    "EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = objects.id AND d.state != 'delivered')"
)


def retrieve(context: Context, _params: Json, event_id: str) -> Json:
    event = context.store.find(event_id, "event")
    if event is None or event["created"] < context.now - KEPT_S:
        raise errors.no_such("event", event_id)
    return event


def list_all(context: Context, params: Json) -> Json:
    query = Query("event").where("created >= ?", context.now - KEPT_S)
    if "type" in params and "types" in params:
        raise errors.invalid_request("You may only pass one of type or types.", param="types")
    if "type" in params:
        query.where("json_extract(body, '$.type') GLOB ?", params["type"])
    if "types" in params:
        types = params["types"]
        if len(types) > TYPES_MAX:
            raise errors.invalid_request(
                f"You may pass up to {TYPES_MAX} event types.", param="types"
            )
        marks = ", ".join("?" * len(types))
        query.where(f"json_extract(body, '$.type') IN ({marks})", *types)
    if "delivery_success" in params:
        query.where(f"NOT {_UNTOLD}" if params["delivery_success"] else _UNTOLD)
    names = ("type", "types", "delivery_success")
    return lists.list_objects(context.store, query, params, url="/v1/events", other=names)
