"""Falsify what Stripe remembers, for tests of whoever compares books with it.

Nothing here ever happens at Stripe; it stands for a movement that one side lost, doubled or
wrote down with another amount.
"""

from __future__ import annotations

from typing import Any

from fakestripe import errors
from fakestripe.context import Context, new_id
from fakestripe.resources import meters
from fakestripe.store import Query

Json = dict[str, Any]

ACTIONS = ("delete", "alter", "duplicate")


def mutate(context: Context, identifier: str, action: str, members: Json) -> Json:
    """Delete, alter or double an object.

    Args:
        context: The transaction to work in.
        identifier: The object's id; of a meter event, the identifier it was reported under.
        action: One of `ACTIONS`.
        members: New values of top-level members, to alter or to tell the double apart.

    Returns:
        The object as it is then; empty if it is gone.

    Raises:
        ApiError: There is no such object, or the values break its schema.
    """
    stored_id, body = _find(context, identifier)
    if action == "delete":
        context.store.delete(stored_id)
        return {}
    unknown = sorted(set(members) - set(body))
    if unknown:
        raise errors.invalid_request(f"It has no {', '.join(unknown)}.")
    after = body | members
    faults = context.contract.object_faults(after["object"], after)
    if faults:
        raise errors.invalid_request("; ".join(faults[:5]))
    private = _private(context, stored_id, after)
    created = after["created"] if isinstance(after["created"], int) else None
    if action == "alter":
        context.store.replace(stored_id, after, private, created=created)
        return after
    double_id = new_id(stored_id.rpartition("_")[0] or "copy")
    if "id" in after:
        after["id"] = double_id
    context.store.insert(after, private, identifier=double_id, created=created or context.now)
    return after


def _find(context: Context, identifier: str) -> tuple[str, Json]:
    found = context.store.find(identifier)
    if found is not None:
        return identifier, found
    stored_id = context.store.find_id(Query(meters.EVENT_KIND).equals("identifier", identifier))
    event = context.store.find(stored_id or "")
    if stored_id is None or event is None:
        raise errors.no_such("object", identifier)
    return stored_id, event


def _private(context: Context, stored_id: str, after: Json) -> Json:
    private = context.store.find_private(stored_id)
    if after["object"] == meters.EVENT_KIND:
        # What is counted follows what is shown.
        return private | {"value": int(after["payload"].get("value", private["value"]))}
    return private
