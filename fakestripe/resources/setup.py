"""Setup intents: a card is saved and nothing is charged."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, methods
from fakestripe.store import Query

Json = dict[str, Any]


def open_intent(context: Context, *, customer_id: str | None, details: Json) -> Json:
    """The intent behind a Checkout Session with mode=setup."""
    intent_id = new_id("seti")
    intent: Json = {
        "id": intent_id,
        "object": "setup_intent",
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": None,
        "client_secret": f"{intent_id}_secret_{new_id('s', 25)[2:]}",
        "created": context.now,
        "customer": customer_id,
        "description": details.get("description"),
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "livemode": False,
        "mandate": None,
        "metadata": details.get("metadata") or {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": "off_session",
    }
    context.store.insert(intent)
    context.emit("setup_intent.created", intent)
    return intent


def save_card(context: Context, intent: Json, card: Card, email: str | None) -> Json:
    """Try to save a card; returns the intent, succeeded or with its error."""
    method = methods.create_card(context, card, email)
    if card.code:
        error = errors.card_error(card.message, card.code, card.decline_code).body["error"]
        intent |= {"status": "requires_payment_method", "last_setup_error": error}
        context.store.save(intent)
        context.emit("setup_intent.setup_failed", intent)
        return intent
    if intent["customer"]:
        methods.keep(context, method, intent["customer"], is_authenticated=True)
    intent |= {"status": "succeeded", "payment_method": method["id"], "last_setup_error": None}
    context.store.save(intent)
    context.emit("setup_intent.succeeded", intent)
    return intent


def cancel(context: Context, intent: Json) -> None:
    """End the intent of a page that expired."""
    intent |= {"status": "canceled", "cancellation_reason": "abandoned"}
    context.store.save(intent)
    context.emit("setup_intent.canceled", intent)


def retrieve(context: Context, params: Json, intent_id: str) -> Json:
    checks.only(params, frozenset())
    return context.get("setup_intent", intent_id)


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("setup_intent"),
        params,
        url="/v1/setup_intents",
        equal=("customer", "payment_method"),
    )
