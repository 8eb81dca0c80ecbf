"""Checkout Sessions with mode=payment: make one, pay it on the hosted page, let it expire."""

from __future__ import annotations

from typing import Any

from fakestripe import cards, errors, lists, views
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, customers, payments
from fakestripe.store import Query

Json = dict[str, Any]

LIFETIME_S_MIN = 30 * 60
LIFETIME_S_MAX = 24 * 3_600
AMOUNT_CENTS_MIN = 50
AMOUNT_CENTS_MAX = 99_999_999
LINES_MAX = 100

_PARAMS = frozenset({
    "mode", "customer", "customer_email", "client_reference_id", "line_items",
    "payment_intent_data", "metadata", "success_url", "cancel_url", "expires_at",
    "payment_method_types", "submit_type", "locale", "ui_mode", "automatic_tax",
    "invoice_creation",
})  # fmt: skip
# Parameters that exist here with one value only.
_ONLY: Json = {
    "mode": "payment",
    "ui_mode": "hosted_page",
    "payment_method_types": ["card"],
    "automatic_tax": {"enabled": False},
    "invoice_creation": {"enabled": False},
}
_INTENT_PARAMS = frozenset({
    "description", "metadata", "receipt_email", "setup_future_usage", "statement_descriptor_suffix",
})  # fmt: skip
_LINE_PARAMS = frozenset({"price_data", "quantity", "metadata"})
_PRICE_PARAMS = frozenset({"currency", "unit_amount", "product_data"})
_PRODUCT_PARAMS = frozenset({"name", "description", "images", "metadata"})


def create(context: Context, params: Json) -> Json:
    _check_params(context, params)
    lines = _lines(context, params)
    amount = sum(line["amount_total"] for line in lines)
    _check_amount(amount, lines[0]["currency"])
    session = _new_session(context, params, amount, lines[0]["currency"])
    intent_data = params.get("payment_intent_data", {})
    intent_data = intent_data | {"metadata": checks.metadata(intent_data.get("metadata"))}
    context.store.insert(session, {"line_items": lines, "payment_intent_data": intent_data})
    return session


def retrieve(context: Context, _params: Json, session_id: str) -> Json:
    session = context.store.find(session_id, "checkout.session")
    if session is None:
        raise errors.no_such("checkout.session", session_id)
    return session


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("checkout.session"),
        params,
        url="/v1/checkout/sessions",
        equal=("customer", "payment_intent", "status"),
    )


def list_line_items(context: Context, params: Json, session_id: str) -> Json:
    checks.only(params, frozenset({"limit"}))
    retrieve(context, {}, session_id)
    found = views.line_items(context, session_id)
    limit = params.get("limit", 10)
    has_more = len(found["data"]) > limit
    return found | {"data": found["data"][:limit], "has_more": has_more}


def expire(context: Context, _params: Json, session_id: str) -> Json:
    session = retrieve(context, {}, session_id)
    if session["status"] != "open":
        raise errors.invalid_request(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
            f"Session has a status of `{session['status']}`."
        )
    return _expire(context, session)


def expire_due(context: Context) -> None:
    """End the sessions whose time is over; called before each request and every second."""
    query = Query("checkout.session").equals("status", "open")
    query.where("json_extract(body, '$.expires_at') <= ?", context.now)
    for session in context.store.list_all(query):
        _expire(context, session)


def pay(context: Context, session_id: str, card_number: str, email: str | None = None) -> Json:
    """Pay on the hosted page by card.

    Returns:
        The session: complete and paid, or still open when the card was refused. Paying what
        is paid changes nothing, so that a second click does no harm.
    """
    session = retrieve(context, {}, session_id)
    if session["status"] != "open":
        return session
    email = _payer_email(context, session, email)
    intent = _intent(context, session)
    intent = payments.pay_by_card(context, intent, cards.read(card_number), email)
    if intent["status"] == "succeeded":
        return _complete(context, session, email, "paid")
    context.store.save(session)
    return session


def pay_later(context: Context, session_id: str) -> Json:
    """Complete a session by bank debit: the money is still on its way."""
    session = retrieve(context, {}, session_id)
    if session["status"] != "open":
        raise errors.invalid_request("This Checkout Session is not open.")
    email = _payer_email(context, session, None)
    payments.start_bank_debit(context, _intent(context, session), email)
    return _complete(context, session, email, "unpaid")


def settle(context: Context, session_id: str, *, succeeds: bool) -> Json:
    """Decide the bank debit behind a session that `pay_later` completed."""
    session = retrieve(context, {}, session_id)
    intent = context.store.find(session["payment_intent"] or "", "payment_intent")
    if intent is None or intent["status"] != "processing":
        raise errors.invalid_request("This Checkout Session waits for no payment.")
    payments.finish_bank_debit(context, intent, succeeds=succeeds)
    if succeeds:
        session["payment_status"] = "paid"
        context.store.save(session)
    outcome = "succeeded" if succeeds else "failed"
    context.emit(f"checkout.session.async_payment_{outcome}", session)
    return session


def last_refusal(context: Context, session: Json) -> str:
    """What the page tells whoever tried to pay last; empty if nothing was refused."""
    intent = context.store.find(session["payment_intent"] or "", "payment_intent")
    error = intent["last_payment_error"] if intent else None
    return str(error["message"]) if error else ""


def _check_params(context: Context, params: Json) -> None:
    checks.only(params, _PARAMS)
    checks.only(params.get("payment_intent_data", {}), _INTENT_PARAMS, prefix="payment_intent_data")
    for name in ("mode", "success_url"):
        if name not in params:
            raise errors.missing_parameter(name)
    for name, value in _ONLY.items():
        if params.get(name, value) != value:
            raise errors.not_stood_in(f"the parameter {name} other than {value}")
    for name in ("success_url", "cancel_url"):
        if name in params:
            checks.url(params[name], name)
    _check_payer(context, params)


def _check_payer(context: Context, params: Json) -> None:
    if "customer" in params and "customer_email" in params:
        raise errors.invalid_request(
            "You may only specify one of these parameters: customer, customer_email.",
            param="customer_email",
        )
    if "customer" in params:
        customers.require(context, params["customer"])
    if "customer_email" in params:
        checks.email(params["customer_email"], "customer_email")


def _lines(context: Context, params: Json) -> list[Json]:
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
        "tax_behavior": "unspecified",
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


def _check_amount(amount: int, currency: str) -> None:
    if amount < AMOUNT_CENTS_MIN:
        raise errors.invalid_request(
            "The Checkout Session's total amount due must add up to at least "
            f"{AMOUNT_CENTS_MIN / 100:.2f} {currency}",
            code="amount_too_small",
        )
    if amount > AMOUNT_CENTS_MAX:
        raise errors.invalid_request(
            "The Checkout Session's total amount must be no more than "
            f"{AMOUNT_CENTS_MAX / 100:,.2f} {currency}",
            code="amount_too_large",
        )


def _expires_at(context: Context, params: Json) -> int:
    expires_at: int = params.get("expires_at", context.now + LIFETIME_S_MAX)
    if expires_at < context.now + LIFETIME_S_MIN:
        raise errors.invalid_request(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session "
            "creation.",
            param="expires_at",
        )
    if expires_at > context.now + LIFETIME_S_MAX:
        raise errors.invalid_request(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    return expires_at


def _new_session(context: Context, params: Json, amount: int, currency: str) -> Json:
    session_id = new_id("cs_test", 58)
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": context.now,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": params.get("customer"),
        "customer_creation": None if "customer" in params else "if_required",
        "customer_details": None,
        "customer_email": params.get("customer_email"),
        "discounts": [],
        "expires_at": _expires_at(context, params),
        "invoice": None,
        "livemode": False,
        "locale": params.get("locale"),
        "metadata": checks.metadata(params.get("metadata")),
        "mode": "payment",
        "payment_intent": None,  # Made when someone first tries to pay.
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": params.get("submit_type"),
        "subscription": None,
        "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{context.config.base_url}/checkout/{session_id}",
        "wallet_options": None,
    }


def _payer_email(context: Context, session: Json, typed: str | None) -> str | None:
    customer = context.store.find(session["customer"] or "", "customer")
    return typed or session["customer_email"] or (customer["email"] if customer else None)


def _intent(context: Context, session: Json) -> Json:
    found = context.store.find(session["payment_intent"] or "", "payment_intent")
    if found is not None:
        return found
    data = context.store.find_private(session["id"])["payment_intent_data"]
    intent = payments.create_intent(
        context,
        amount=session["amount_total"],
        currency=session["currency"],
        details={
            **data,
            "customer": session["customer"],
            "payment_method_types": session["payment_method_types"],
        },
    )
    session["payment_intent"] = intent["id"]
    return intent


def _complete(context: Context, session: Json, email: str | None, payment_status: str) -> Json:
    session |= {
        "status": "complete",
        "payment_status": payment_status,
        "url": None,
        "customer_details": {
            "address": None,
            "email": email,
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        },
    }
    context.store.save(session)
    context.emit("checkout.session.completed", session)
    return session


def _expire(context: Context, session: Json) -> Json:
    session |= {"status": "expired", "url": None}
    context.store.save(session)
    if session["payment_intent"]:
        payments.cancel_intent(context, session["payment_intent"])
    context.emit("checkout.session.expired", session)
    return session
