"""Lists: cursors, the `created` filter, and the envelope around a page."""

from __future__ import annotations

from typing import Any

from fakestripe import errors
from fakestripe.resources import checks
from fakestripe.store import Page, Query, Store

Json = dict[str, Any]

LIMIT_MAX = 100

_ALWAYS = frozenset({"limit", "starting_after", "ending_before", "created"})

_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def list_objects(
    store: Store,
    query: Query,
    params: Json,
    *,
    url: str,
    equal: tuple[str, ...] = (),
    other: tuple[str, ...] = (),
) -> Json:
    """A page of the objects that match, in Stripe's list envelope.

    Args:
        store: Where to look.
        query: What is wanted whatever the parameters say.
        params: Parameters of the request.
        url: Address of the list, as the envelope names it.
        equal: Parameters that each compare the member of the same name.
        other: Parameters that the caller has put into the query itself.
    """
    checks.only(params, _ALWAYS | {*equal, *other})
    for member in equal:
        if member in params:
            query.equals(member, params[member])
    _filter_created(query, params.get("created"))
    data, has_more = store.list_page(query, _page(store, params))
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def _page(store: Store, params: Json) -> Page:
    limit = params.get("limit", 10)
    if not 1 <= limit <= LIMIT_MAX:
        raise errors.invalid_request(
            f"Invalid limit: must be between 1 and {LIMIT_MAX}",
            code="parameter_invalid_integer",
            param="limit",
        )
    if "starting_after" in params and "ending_before" in params:
        raise errors.invalid_request("You cannot use both starting_after and ending_before")
    for name in ("starting_after", "ending_before"):
        cursor = params.get(name)
        if cursor is not None and store.find(cursor) is None:
            raise errors.no_such("object", cursor, param=name, status=400)
    return Page(limit, params.get("starting_after"), params.get("ending_before"))


def _filter_created(query: Query, created: Any) -> None:
    if isinstance(created, int):
        query.where("created = ?", created)
    elif isinstance(created, dict):
        for name, value in created.items():
            query.where(f"created {_COMPARISONS[name]} ?", value)
