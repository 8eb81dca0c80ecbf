"""Payment methods: cards and bank accounts that were used, and those a customer keeps."""

from __future__ import annotations

from typing import Any

from fakestripe import cards, errors, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, customers
from fakestripe.store import Query

Json = dict[str, Any]

_BANK = {
    "account_holder_type": "individual",
    "account_type": "checking",
    "bank_name": "STRIPE TEST BANK",
    "fingerprint": "testbank",
    "last4": "6789",
    "routing_number": "110000000",
}


def create_card(context: Context, card: Card, email: str | None) -> Json:
    """A card as someone typed it; nobody keeps it yet."""
    details = {"type": "card", "card": card_details(card)}
    return _create(context, details, email, {"number": card.number})


def create_bank_account(context: Context, email: str | None) -> Json:
    """A bank account that a debit draws on."""
    return _create(context, {"type": "us_bank_account", "us_bank_account": dict(_BANK)}, email, {})


def keep(context: Context, method: Json, customer_id: str, *, is_authenticated: bool) -> Json:
    """Give a method to a customer, who can then be charged while away.

    Args:
        context: The transaction to work in.
        method: Of nobody yet.
        customer_id: Who keeps it.
        is_authenticated: A person confirmed it to the bank.
    """
    private = context.store.find_private(method["id"])
    context.store.save_private(method["id"], private | {"is_authenticated": is_authenticated})
    method = method | {"customer": customer_id}
    context.store.save(method)
    context.emit("payment_method.attached", method)
    return method


def card_behind(context: Context, method: Json, *, is_off_session: bool) -> Card:
    """How the card of a kept method behaves when it is charged now."""
    private = context.store.find_private(method["id"])
    card = cards.read(private.get("number", ""))
    if card.is_refused_later:
        return cards.REFUSAL_LATER
    is_known = card.authentication == "once" and private.get("is_authenticated", False)
    if card.authentication and is_off_session and not is_known:
        return cards.REFUSAL_OF_AUTHENTICATION
    return card


def retrieve(context: Context, params: Json, method_id: str) -> Json:
    checks.only(params, frozenset())
    return context.get("payment_method", method_id)


def list_all(context: Context, params: Json) -> Json:
    if "customer" not in params:
        raise errors.missing_parameter("customer")
    customers.require(context, params["customer"])
    return _list(context, params, "/v1/payment_methods")


def list_of_customer(context: Context, params: Json, customer_id: str) -> Json:
    customers.retrieve(context, {}, customer_id)
    url = f"/v1/customers/{customer_id}/payment_methods"
    return _list(context, params | {"customer": customer_id}, url)


def attach(context: Context, params: Json, method_id: str) -> Json:
    checks.only(params, frozenset({"customer"}))
    if "customer" not in params:
        raise errors.missing_parameter("customer")
    customers.require(context, params["customer"])
    if method_id in cards.BY_NAME:
        method = create_card(context, cards.read(cards.BY_NAME[method_id]), None)
        return keep(context, method, params["customer"], is_authenticated=False)
    method = context.get("payment_method", method_id)
    if method["customer"] not in (None, params["customer"]):
        raise errors.invalid_request(
            "The payment method you provided has already been attached to a customer."
        )
    if context.store.find_private(method_id).get("is_detached"):
        raise errors.invalid_request(
            "This PaymentMethod was previously used without being attached to a Customer or was "
            "detached from a Customer, and may not be used again."
        )
    if method["customer"] is not None:
        return method
    return keep(context, method, params["customer"], is_authenticated=False)


def detach(context: Context, params: Json, method_id: str) -> Json:
    checks.only(params, frozenset())
    method = context.get("payment_method", method_id)
    if method["customer"] is None:
        raise errors.invalid_request(
            "The payment method you provided is not attached to a customer so detachment is "
            "impossible."
        )
    _forget_default(context, method)
    private = context.store.find_private(method_id)
    context.store.save_private(method_id, private | {"is_detached": True})
    after = method | {"customer": None}
    context.store.save(after)
    context.emit("payment_method.detached", after, {"customer": method["customer"]})
    return after


def require_kept(context: Context, method_id: str, customer_id: str | None) -> Json:
    """The method that a customer is to be charged by."""
    method = context.get_named("payment_method", method_id, "payment_method")
    if method["customer"] is None:
        raise errors.invalid_request(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer "
            "attachment, shared with a connected account without Customer attachment, or was "
            "detached from a Customer. It may not be used again. To use a PaymentMethod multiple "
            "times, you must attach it to a Customer first."
        )
    if method["customer"] != customer_id:
        raise errors.invalid_request(
            f"The customer does not have a payment method with the ID {method_id}. The payment "
            "method must be attached to the customer.",
            code="resource_missing",
            param="payment_method",
        )
    return method


def card_details(card: Card) -> Json:
    return {
        "brand": card.brand,
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "fingerprint": f"test{card.last4}",
        "funding": card.funding,
        "last4": card.last4,
        "wallet": None,
    }


def details_of_charge(method: Json) -> Json:
    """`payment_method_details` of a charge by this method."""
    kind = method["type"]
    details = dict(method[kind])
    if kind == "card":
        details["network"] = details["brand"]
    return {"type": kind, kind: details}


def _create(context: Context, details: Json, email: str | None, private: Json) -> Json:
    method: Json = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": billing_details(email),
        "created": context.now,
        "customer": None,
        "livemode": False,
        "metadata": {},
        **details,
    }
    return context.insert(method, private)


def billing_details(email: str | None) -> Json:
    return {"address": None, "email": email, "name": None, "phone": None, "tax_id": None}


def _list(context: Context, params: Json, url: str) -> Json:
    return lists.list_objects(
        context.store,
        Query("payment_method"),
        params,
        url=url,
        equal=("customer", "type", "allow_redisplay"),
    )


def _forget_default(context: Context, method: Json) -> None:
    customer = context.store.find(method["customer"], "customer")
    if customer and customer["invoice_settings"]["default_payment_method"] == method["id"]:
        customer["invoice_settings"]["default_payment_method"] = None
        context.store.save(customer)
