"""What a Checkout Session sells: line items with a price each, and their tax."""

from __future__ import annotations

from typing import Any

from fakestripe import errors
from fakestripe.context import Context, new_id
from fakestripe.resources import checks

Json = dict[str, Any]

LINES_MAX = 100
TAX_SETTING = "tax_rate_bps"
TAX_RATE_BPS_DEFAULT = 1_000

_LINE_PARAMS = frozenset({"price_data", "quantity", "metadata"})
_PRICE_PARAMS = frozenset({"currency", "unit_amount", "product_data", "tax_behavior"})
_PRODUCT_PARAMS = frozenset({"name", "description", "images", "metadata", "tax_code"})


def read_lines(context: Context, params: Json) -> list[Json]:
    """The items that a page sells, each with its price and what it comes to."""
    given = params.get("line_items") or []
    if not given:
        raise errors.missing_parameter("line_items")
    if len(given) > LINES_MAX:
        raise errors.invalid_request(
            f"A Checkout Session takes up to {LINES_MAX} line items.", param="line_items"
        )
    lines = [_line(context, line, f"line_items[{index}]") for index, line in enumerate(given)]
    if len({line["currency"] for line in lines}) > 1:
        raise errors.invalid_request(
            "All line items of a Checkout Session must have the same currency.", param="line_items"
        )
    return lines


def _line(context: Context, line: Json, where: str) -> Json:
    checks.only(line, _LINE_PARAMS, prefix=where)
    if "price_data" not in line:
        raise errors.missing_parameter(f"{where}[price_data]")
    price_data, quantity = line["price_data"], line.get("quantity", 1)
    checks.only(price_data, _PRICE_PARAMS, prefix=f"{where}[price_data]")
    for name in ("unit_amount", "product_data"):
        if name not in price_data:
            raise errors.missing_parameter(f"{where}[price_data][{name}]")
    if price_data["unit_amount"] < 0 or quantity < 1:
        raise errors.invalid_request(
            "Invalid non-negative integer",
            code="parameter_invalid_integer",
            param=f"{where}[price_data][unit_amount]" if quantity >= 1 else f"{where}[quantity]",
        )
    price = _price(context, price_data, where)
    total = price_data["unit_amount"] * quantity
    return {
        "id": new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": price_data["product_data"]["name"],
        "metadata": checks.metadata(line.get("metadata")),
        "price": price,
        "quantity": quantity,
    }


def _price(context: Context, price_data: Json, where: str) -> Json:
    product_data = price_data["product_data"]
    checks.only(product_data, _PRODUCT_PARAMS, prefix=f"{where}[price_data][product_data]")
    product: Json = {
        "id": new_id("prod", 14),
        "object": "product",
        "active": False,  # Made for one sale; not for the catalogue.
        "created": context.now,
        "default_price": None,
        "description": product_data.get("description"),
        "images": product_data.get("images", []),
        "livemode": False,
        "marketing_features": [],
        "metadata": checks.metadata(product_data.get("metadata")),
        "name": product_data["name"],
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "unit_label": None,
        "updated": context.now,
        "url": None,
    }
    # Stripe's default for prices that leave it open is decided per account; ours: on top.
    behavior = price_data.get("tax_behavior", "unspecified")
    price: Json = {
        "id": new_id("price"),
        "object": "price",
        "active": False,
        "billing_scheme": "per_unit",
        "created": context.now,
        "currency": checks.currency(price_data["currency"], f"{where}[price_data][currency]"),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": product["id"],
        "recurring": None,
        "tax_behavior": behavior,
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time",
        "unit_amount": price_data["unit_amount"],
        "unit_amount_decimal": str(price_data["unit_amount"]),
    }
    context.check("product", product)
    context.check("price", price)
    context.store.insert(product)
    context.store.insert(price)
    return price


def tax_rate_bps(context: Context) -> int:
    """The one rate of the stand-in; the control plane can set it."""
    return int(context.store.get_setting(TAX_SETTING, str(TAX_RATE_BPS_DEFAULT)))


def tax_cents(amount: int, rate_bps: int, *, is_included: bool) -> int:
    """The tax on an amount, or in it, rounded half up."""
    whole = 10_000 + rate_bps if is_included else 10_000
    return (amount * rate_bps + whole // 2) // whole


def with_tax(context: Context, line: Json) -> Json:
    """A line item once Stripe knows where the payer lives."""
    is_included = line["price"]["tax_behavior"] == "inclusive"
    tax = tax_cents(line["amount_subtotal"], tax_rate_bps(context), is_included=is_included)
    return line | {
        "amount_tax": tax,
        "amount_total": line["amount_subtotal"] + (0 if is_included else tax),
    }
