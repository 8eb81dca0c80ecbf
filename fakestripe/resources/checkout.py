"""Checkout Sessions: pay, or only save a card, on the hosted page; or let it expire."""

from __future__ import annotations

from typing import Any

from fakestripe import cards, errors, lists, views
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, checkout_lines, checks, customers, intents, setup
from fakestripe.store import Query

Json = dict[str, Any]

LIFETIME_S_MIN = 30 * 60
LIFETIME_S_MAX = 24 * 3_600
EXPIRE_TASK = "checkout.expire"
AMOUNT_CENTS_MIN = 50
AMOUNT_CENTS_MAX = 99_999_999

_PARAMS = frozenset({
    "mode", "customer", "customer_email", "client_reference_id", "line_items",
    "payment_intent_data", "metadata", "success_url", "cancel_url", "expires_at",
    "payment_method_types", "submit_type", "locale", "ui_mode", "automatic_tax",
    "invoice_creation", "currency", "setup_intent_data", "billing_address_collection",
    "customer_update", "customer_creation",
})  # fmt: skip
# Parameters that exist here with one value only.
_ONLY: Json = {
    "ui_mode": "hosted_page",
    "payment_method_types": ["card"],
    "invoice_creation": {"enabled": False},
}
_MODES = ("payment", "setup")
_SETUP_PARAMS = frozenset({"description", "metadata"})
_INTENT_PARAMS = frozenset({
    "description", "metadata", "receipt_email", "setup_future_usage", "statement_descriptor_suffix",
})  # fmt: skip


def create(context: Context, params: Json) -> Json:
    _check_params(context, params)
    kind = "setup_intent_data" if params["mode"] == "setup" else "payment_intent_data"
    data = params.get(kind, {})
    data = data | {"metadata": checks.metadata(data.get("metadata"))}
    if params["mode"] == "setup":
        session, lines = _new_session(context, params, None, params.get("currency")), []
        session["setup_intent"] = setup.open_intent(
            context, customer_id=session["customer"], details=data
        )["id"]
    else:
        lines = checkout_lines.read_lines(context, params)
        amount = sum(line["amount_total"] for line in lines)
        _check_amount(amount, lines[0]["currency"])
        session = _new_session(context, params, amount, lines[0]["currency"])
    context.store.insert(session, {"line_items": lines, "payment_intent_data": data})
    context.after(session["expires_at"] - context.now, EXPIRE_TASK, session["id"])
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


def update(context: Context, params: Json, session_id: str) -> Json:
    session = retrieve(context, {}, session_id)
    return balance.metadata_only(context, params, session, "")


def expire_due(context: Context, session_id: str) -> None:
    """End a session whose time is over."""
    session = context.store.find(session_id, "checkout.session")
    if session is not None and session["status"] == "open":
        _expire(context, session)


def needs_authentication(context: Context, session_id: str, card_number: str) -> bool:
    """Whether the bank asks the person at the page to confirm."""
    session = retrieve(context, {}, session_id)
    return session["status"] == "open" and bool(cards.read(card_number).authentication)


def pay(
    context: Context, session_id: str, card_number: str, *, is_authenticated: bool = True
) -> Json:
    """Pay on the hosted page by card, or save the card.

    Args:
        context: The transaction to work in.
        session_id: The page.
        card_number: As typed.
        is_authenticated: The person confirmed to the bank, if it asked.

    Returns:
        The session: complete, or still open when the card was refused. Paying what is paid
        changes nothing, so that a second click does no harm.
    """
    session = retrieve(context, {}, session_id)
    if session["status"] != "open":
        return session
    email = _payer_email(context, session)
    card = cards.read(card_number)
    if card.authentication and not is_authenticated:
        card = cards.REFUSAL_ON_PAGE
    if session["mode"] == "setup":
        intent = setup.save_card(
            context, context.get("setup_intent", session["setup_intent"]), card, email
        )
        payment_status = "no_payment_required"
    else:
        session = priced(context, session)
        intent = intents.pay_on_page(context, _intent(context, session), card, email)
        payment_status = "paid"
    if intent["status"] == "succeeded":
        return _complete(context, session, email, payment_status)
    context.store.save(session)
    return session


def priced(context: Context, session: Json) -> Json:
    """The session with its tax, now that the page has asked where the payer lives."""
    if session["status"] != "open" or not session["automatic_tax"]["enabled"]:
        return session
    private = context.store.find_private(session["id"])
    lines = [checkout_lines.with_tax(context, line) for line in private["line_items"]]
    context.store.save_private(session["id"], private | {"line_items": lines})
    tax = sum(line["amount_tax"] for line in lines)
    session = session | {
        "amount_total": sum(line["amount_total"] for line in lines),
        "automatic_tax": session["automatic_tax"] | {"status": "complete"},
        "total_details": session["total_details"] | {"amount_tax": tax},
    }
    context.store.save(session)
    return session


def pay_later(context: Context, session_id: str) -> Json:
    """Complete a session by bank debit: the money is still on its way."""
    session = retrieve(context, {}, session_id)
    if session["status"] != "open":
        raise errors.invalid_request("This Checkout Session is not open.")
    if session["mode"] == "setup":
        raise errors.invalid_request("This Checkout Session takes no payment.")
    email = _payer_email(context, session)
    session = priced(context, session)
    intents.start_bank_debit(context, _intent(context, session), email)
    return _complete(context, session, email, "unpaid")


def settle(context: Context, session_id: str, *, succeeds: bool) -> Json:
    """Decide the bank debit behind a session that `pay_later` completed."""
    session = retrieve(context, {}, session_id)
    intent = context.store.find(session["payment_intent"] or "", "payment_intent")
    if intent is None or intent["status"] != "processing":
        raise errors.invalid_request("This Checkout Session waits for no payment.")
    intents.finish_bank_debit(context, intent, succeeds=succeeds)
    if succeeds:
        session["payment_status"] = "paid"
        context.store.save(session)
    outcome = "succeeded" if succeeds else "failed"
    context.emit(f"checkout.session.async_payment_{outcome}", session)
    return session


def last_refusal(context: Context, session: Json) -> str:
    """What the page tells whoever tried to pay last; empty if nothing was refused."""
    if session["mode"] == "setup":
        error = context.get("setup_intent", session["setup_intent"])["last_setup_error"]
    else:
        intent = context.store.find(session["payment_intent"] or "", "payment_intent")
        error = intent["last_payment_error"] if intent else None
    return str(error["message"]) if error else ""


def _check_params(context: Context, params: Json) -> None:
    checks.only(params, _PARAMS)
    checks.only(params.get("payment_intent_data", {}), _INTENT_PARAMS, prefix="payment_intent_data")
    checks.only(params.get("setup_intent_data", {}), _SETUP_PARAMS, prefix="setup_intent_data")
    for name in ("mode", "success_url"):
        if name not in params:
            raise errors.missing_parameter(name)
    for name, value in _ONLY.items():
        if params.get(name, value) != value:
            raise errors.not_stood_in(f"the parameter {name} other than {value}")
    if params["mode"] not in _MODES:
        raise errors.not_stood_in(f"the parameter mode other than {', '.join(_MODES)}")
    if params["mode"] == "setup":
        _check_setup(params)
    for name in ("success_url", "cancel_url"):
        if name in params:
            checks.url(params[name], name)
    _check_payer(context, params)


def _check_setup(params: Json) -> None:
    for name in ("line_items", "payment_intent_data", "submit_type", "automatic_tax"):
        if name in params:
            raise errors.invalid_request(f"You can not pass `{name}` in `setup` mode.", param=name)
    if "currency" not in params and "payment_method_types" not in params:
        raise errors.invalid_request(
            "You must provide either `currency` or `payment_method_types` in `setup` mode.",
            param="currency",
        )


def _check_payer(context: Context, params: Json) -> None:
    if "customer" in params and "customer_email" in params:
        raise errors.invalid_request(
            "You may only specify one of these parameters: customer, customer_email.",
            param="customer_email",
        )
    if "customer" in params:
        customers.require(context, params["customer"])
        is_taxed = params.get("automatic_tax", {}).get("enabled", False)
        if is_taxed and params.get("customer_update", {}).get("address") != "auto":
            raise errors.invalid_request(
                "Automatic tax calculation in Checkout requires a valid address on the Customer. "
                "Add a valid address to the Customer or set either `customer_update[address]` to "
                "'auto' or `customer_update[shipping]` to 'auto' to save the address entered in "
                "Checkout to the Customer.",
                code="customer_tax_location_invalid",
            )
    elif "customer_update" in params:
        raise errors.invalid_request(
            "`customer_update` can only be used with `customer`.", param="customer_update"
        )
    if "customer_email" in params:
        checks.email(params["customer_email"], "customer_email")


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


def _new_session(context: Context, params: Json, amount: int | None, currency: str | None) -> Json:
    session_id = new_id("cs_test", 58)
    is_setup = params["mode"] == "setup"
    is_taxed = params.get("automatic_tax", {}).get("enabled", False)
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {
            "enabled": is_taxed,
            "liability": {"type": "self"} if is_taxed else None,
            "provider": "stripe" if is_taxed else None,
            "status": "requires_location_inputs" if is_taxed else None,
        },
        "billing_address_collection": params.get("billing_address_collection"),
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
        "mode": params["mode"],
        "payment_intent": None,  # Made when someone first tries to pay.
        "payment_link": None,
        "payment_method_collection": "if_required",
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "no_payment_required" if is_setup else "unpaid",
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
        "total_details": None
        if is_setup
        else {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{context.config.base_url}/checkout/{session_id}",
        "wallet_options": None,
    }


def _payer_email(context: Context, session: Json) -> str | None:
    customer = context.store.find(session["customer"] or "", "customer")
    return session["customer_email"] or (customer["email"] if customer else None)


def _intent(context: Context, session: Json) -> Json:
    found = context.store.find(session["payment_intent"] or "", "payment_intent")
    if found is not None:
        found["amount"] = session["amount_total"]  # The tax can have changed meanwhile.
        return found
    data = context.store.find_private(session["id"])["payment_intent_data"]
    intent = intents.open_intent(
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
        intent = context.get("payment_intent", session["payment_intent"])
        intents.end(context, intent, "expired")
    if session["setup_intent"]:
        setup.cancel(context, context.get("setup_intent", session["setup_intent"]))
    context.emit("checkout.session.expired", session)
    return session
