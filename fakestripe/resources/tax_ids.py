"""Tax ids of customers."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, customers
from fakestripe.store import Query

Json = dict[str, Any]


def create(context: Context, params: Json, customer_id: str) -> Json:
    checks.only(params, frozenset({"type", "value"}))
    customers.require(context, customer_id)
    for name in ("type", "value"):
        if not params.get(name):
            raise errors.missing_parameter(name)
    value = params["value"]
    tax_id: Json = {
        "id": new_id("txi", 14),
        "object": "tax_id",
        "country": params["type"][:2].upper(),
        "created": context.now,
        "customer": customer_id,
        "customer_account": None,
        "livemode": False,
        "owner": {"type": "customer", "customer": customer_id},
        "type": params["type"],
        "value": value,
        "verification": None,
    }
    context.insert(tax_id)
    context.emit("customer.tax_id.created", tax_id)
    return tax_id


def list_all(context: Context, params: Json, customer_id: str) -> Json:
    query = Query("tax_id").equals("customer", customer_id)
    query.where("json_extract(body, '$.deleted') IS NULL")
    url = f"/v1/customers/{customer_id}/tax_ids"
    return lists.list_objects(context.store, query, params, url=url)


def delete(context: Context, _params: Json, customer_id: str, tax_id: str) -> Json:
    found = context.get("tax_id", tax_id)
    if found["customer"] != customer_id or found.get("deleted"):
        raise errors.no_such("tax_id", tax_id)
    context.store.save(found | {"deleted": True})
    context.emit("customer.tax_id.deleted", found)
    return {"id": tax_id, "object": "tax_id", "deleted": True}
