"""Products and their prices; a price never changes what it charges."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import checks
from fakestripe.store import Query

Json = dict[str, Any]

DECIMALS_MAX = 12

_PRODUCT_PARAMS = frozenset({"name", "description", "metadata", "active", "unit_label"})
_PRICE_PARAMS = frozenset({
    "currency", "product", "product_data", "recurring", "unit_amount", "unit_amount_decimal",
    "billing_scheme", "lookup_key", "transfer_lookup_key", "metadata", "nickname", "tax_behavior",
})  # fmt: skip


def create_product(context: Context, params: Json) -> Json:
    checks.only(params, _PRODUCT_PARAMS)
    product: Json = {
        "id": new_id("prod", 14),
        "object": "product",
        "active": params.get("active", True),
        "created": context.now,
        "default_price": None,
        "description": params.get("description"),
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": checks.metadata(params.get("metadata")),
        "name": params["name"],
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "unit_label": params.get("unit_label"),
        "updated": context.now,
        "url": None,
    }
    context.insert(product)
    context.emit("product.created", product)
    return product


def retrieve_product(context: Context, _params: Json, product_id: str) -> Json:
    return context.get("product", product_id)


def list_products(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store, Query("product"), params, url="/v1/products", equal=("active",)
    )


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PRICE_PARAMS)
    if params.get("billing_scheme", "per_unit") != "per_unit":
        raise errors.not_stood_in("the parameter billing_scheme other than per_unit")
    amount = _unit_amount(params)
    recurring = _recurring(context, params.get("recurring"))
    if ("product" in params) == ("product_data" in params):
        raise errors.invalid_request(
            "You must provide exactly one of product or product_data.", param="product"
        )
    if "product" in params:
        product = context.get_named("product", params["product"], "product")
    else:
        product = create_product(context, params["product_data"])
    price: Json = {
        "id": new_id("price"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": context.now,
        "currency": checks.currency(params["currency"], "currency"),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": checks.metadata(params.get("metadata")),
        "nickname": params.get("nickname"),
        "product": product["id"],
        "recurring": recurring,
        "tax_behavior": params.get("tax_behavior", "unspecified"),
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": int(amount) if amount == amount.to_integral_value() else None,
        "unit_amount_decimal": format(amount.normalize(), "f"),
    }
    if "lookup_key" in params:
        _claim_key(context, params["lookup_key"], bool(params.get("transfer_lookup_key")))
        price["lookup_key"] = params["lookup_key"]
    context.insert(price)
    context.emit("price.created", price)
    return price


def retrieve(context: Context, _params: Json, price_id: str) -> Json:
    return context.get("price", price_id)


def update(context: Context, params: Json, price_id: str) -> Json:
    """Everything but what it charges."""
    checks.only(
        params, frozenset({"active", "lookup_key", "transfer_lookup_key", "metadata", "nickname"})
    )
    price = context.get("price", price_id)
    if "lookup_key" in params and params["lookup_key"] != price["lookup_key"]:
        _claim_key(context, params["lookup_key"], bool(params.get("transfer_lookup_key")))
    price |= {name: params[name] for name in ("active", "lookup_key", "nickname") if name in params}
    price["metadata"] = checks.metadata(params.get("metadata"), price["metadata"])
    context.store.save(price)
    context.emit("price.updated", price, {})
    return price


def list_all(context: Context, params: Json) -> Json:
    query = Query("price")
    if "lookup_keys" in params:
        marks = ", ".join("?" * len(params["lookup_keys"]))
        query.where(f"json_extract(body, '$.lookup_key') IN ({marks})", *params["lookup_keys"])
    return lists.list_objects(
        context.store,
        query,
        params,
        url="/v1/prices",
        equal=("active", "product", "type", "currency"),
        other=("lookup_keys",),
    )


def charge_for(price: Json, quantity: int) -> int:
    """Cents for so many units, rounded half up."""
    exact = Decimal(price["unit_amount_decimal"]) * quantity
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _unit_amount(params: Json) -> Decimal:
    if ("unit_amount" in params) == ("unit_amount_decimal" in params):
        raise errors.invalid_request(
            "You must provide exactly one of unit_amount or unit_amount_decimal.",
            param="unit_amount",
        )
    try:
        amount = Decimal(str(params.get("unit_amount", params.get("unit_amount_decimal"))))
    except InvalidOperation as error:
        raise errors.invalid_request("Invalid decimal", param="unit_amount_decimal") from error
    exponent = amount.normalize().as_tuple().exponent
    if not amount.is_finite() or amount < 0 or not isinstance(exponent, int):
        raise errors.invalid_request("Invalid decimal", param="unit_amount_decimal")
    if -exponent > DECIMALS_MAX:
        raise errors.invalid_request(
            f"Invalid decimal: at most {DECIMALS_MAX} decimal places", param="unit_amount_decimal"
        )
    return amount


def _recurring(context: Context, given: Json | None) -> Json | None:
    if given is None:
        return None
    usage_type = given.get("usage_type", "licensed")
    if usage_type == "metered" and "meter" not in given:
        # Since 2025-03-31.basil there is no metered price without a meter.
        raise errors.missing_parameter("recurring[meter]")
    if "meter" in given:
        meter = context.get_named("billing.meter", given["meter"], "recurring[meter]")
        if meter["status"] != "active":
            raise errors.invalid_request("The meter is not active.", param="recurring[meter]")
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": given.get("meter"),
        "usage_type": usage_type,
    }


def _claim_key(context: Context, key: str, may_transfer: bool) -> None:
    for price in context.store.list_all(Query("price").equals("lookup_key", key)):
        if not may_transfer:
            raise errors.invalid_request(
                f"A price (`{price['id']}`) already uses that lookup key.", param="lookup_key"
            )
        context.store.save(price | {"lookup_key": None})
