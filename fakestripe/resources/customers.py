"""Customers."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import checks
from fakestripe.store import Query

Json = dict[str, Any]

_PARAMS = frozenset({"email", "name", "description", "phone", "metadata"})
_UPDATE_PARAMS = _PARAMS | {"invoice_settings", "address"}
_ADDRESS = frozenset({"line1", "line2", "city", "postal_code", "state", "country"})
_TEXTS = ("email", "name", "description", "phone")


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    customer: Json = {
        "id": new_id("cus", 14),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": context.now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": new_id("x", 8)[2:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": checks.metadata(params.get("metadata")),
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    customer |= _texts(params)
    context.store.insert(customer)
    context.emit("customer.created", customer)
    return customer


def retrieve(context: Context, _params: Json, customer_id: str) -> Json:
    customer = context.store.find(customer_id, "customer")
    if customer is None:
        raise errors.no_such("customer", customer_id)
    return customer


def update(context: Context, params: Json, customer_id: str) -> Json:
    checks.only(params, _UPDATE_PARAMS)
    before = retrieve(context, {}, customer_id)
    after = before | _texts(params)
    settings = params.get("invoice_settings", {})
    checks.only(settings, frozenset({"default_payment_method"}), prefix="invoice_settings")
    if settings:
        _check_method(context, customer_id, settings["default_payment_method"])
        after["invoice_settings"] = before["invoice_settings"] | settings
    if "address" in params:
        checks.only(params["address"], _ADDRESS, prefix="address")
        given = {name: text or None for name, text in params["address"].items()}
        after["address"] = dict.fromkeys(sorted(_ADDRESS)) | (before["address"] or {}) | given
    if "metadata" in params:
        after["metadata"] = checks.metadata(params["metadata"], before["metadata"])
    previous = {name: before[name] for name in before if before[name] != after[name]}
    if previous:
        context.store.save(after)
        context.emit("customer.updated", after, previous)
    return after


def set_default_method(context: Context, customer_id: str, method_id: str) -> Json:
    """Choose the card that invoices are paid by."""
    settings = {"default_payment_method": method_id}
    return update(context, {"invoice_settings": settings}, customer_id)


def list_all(context: Context, params: Json) -> Json:
    query = Query("customer")
    return lists.list_objects(context.store, query, params, url="/v1/customers", equal=("email",))


def require(context: Context, customer_id: str) -> Json:
    """The customer that another object names in its parameter `customer`."""
    customer = context.store.find(customer_id, "customer")
    if customer is None:
        raise errors.no_such("customer", customer_id, param="customer", status=400)
    return customer


def _check_method(context: Context, customer_id: str, method_id: str) -> None:
    method = context.store.find(method_id, "payment_method")
    if method is None or method["customer"] != customer_id:
        raise errors.no_such(
            "PaymentMethod",
            method_id,
            param="invoice_settings[default_payment_method]",
            status=400,
        )


def _texts(params: Json) -> Json:
    given: Json = {name: params[name] or None for name in _TEXTS if name in params}
    if given.get("email"):
        checks.email(given["email"], "email")
    return given
