"""Payment intents: paid by a person on a page, or by a kept card while nobody is there."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, charges, checks, customers, disputes, methods
from fakestripe.store import Query

Json = dict[str, Any]

AMOUNT_CENTS_MIN = 50
AMOUNT_CENTS_MAX = 99_999_999

_PARAMS = frozenset({
    "amount", "currency", "customer", "payment_method", "off_session", "confirm", "metadata",
    "description", "payment_method_types", "receipt_email", "statement_descriptor_suffix",
    "transfer_group", "automatic_payment_methods",
})  # fmt: skip
# The stand-in takes intents only as we make them: by a kept card, at once, nobody there.
_ONLY: Json = {"off_session": True, "confirm": True, "payment_method_types": ["card"]}
_AUTOMATIC = {"enabled": True, "allow_redirects": "never"}


def create(context: Context, params: Json) -> Json:
    """Charge a kept card at once; a refusal leaves the intent behind with its error."""
    checks.only(params, _PARAMS)
    for name, value in _ONLY.items():
        if params.get(name, value) != value or (name not in params and value is True):
            raise errors.not_stood_in(f"the parameter {name} other than {value}")
    if params.get("automatic_payment_methods", _AUTOMATIC) != _AUTOMATIC:
        # Without "never", Stripe asks for a return_url, because a redirect could be needed.
        raise errors.invalid_request(
            "This PaymentIntent is configured to accept payment methods enabled in your "
            "Dashboard. Because some of these payment methods might redirect your customer off "
            "of your page, you must provide a `return_url`."
        )
    for name in ("customer", "payment_method"):
        if name not in params:
            raise errors.missing_parameter(name)
    check_amount(params["amount"])
    customers.require(context, params["customer"])
    method = methods.require_kept(context, params["payment_method"], params["customer"])
    intent = open_intent(
        context,
        amount=params["amount"],
        currency=checks.currency(params["currency"], "currency"),
        details={
            **params,
            "metadata": checks.metadata(params.get("metadata")),
            "payment_method_types": ["card"],
        },
    )
    intent = pay_by_kept_card(context, intent, method)
    if intent["status"] != "succeeded":
        raise refusal(context, intent, method)
    return intent


def retrieve(context: Context, params: Json, intent_id: str) -> Json:
    checks.only(params, frozenset())
    return context.get("payment_intent", intent_id)


def update(context: Context, params: Json, intent_id: str) -> Json:
    intent = context.get("payment_intent", intent_id)
    return balance.metadata_only(context, params, intent, "")


def cancel(context: Context, params: Json, intent_id: str) -> Json:
    checks.only(params, frozenset({"cancellation_reason"}))
    intent = context.get("payment_intent", intent_id)
    if intent["status"] in ("succeeded", "canceled", "processing"):
        raise errors.invalid_request(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    return end(context, intent, params.get("cancellation_reason"))


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("payment_intent"),
        params,
        url="/v1/payment_intents",
        equal=("customer",),
    )


def open_intent(context: Context, *, amount: int, currency: str, details: Json) -> Json:
    """A new intent that nobody has paid yet.

    Args:
        context: The transaction to work in.
        amount: Smallest unit of the currency.
        currency: Lower case.
        details: Its other members; `payment_method_types` at least.
    """
    intent_id = new_id("pi")
    intent: Json = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": details.get("automatic_payment_methods"),
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_secret_{new_id('s', 25)[2:]}",
        "confirmation_method": "automatic",
        "created": context.now,
        "currency": currency,
        "customer": details.get("customer"),
        "description": details.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": details.get("metadata") or {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {},
        "payment_method_types": details["payment_method_types"],
        "processing": None,
        "receipt_email": details.get("receipt_email"),
        "review": None,
        "setup_future_usage": details.get("setup_future_usage"),
        "shipping": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": details.get("statement_descriptor_suffix"),
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": details.get("transfer_group"),
    }
    context.store.insert(intent)
    context.emit("payment_intent.created", intent)
    return intent


def pay_on_page(context: Context, intent: Json, card: Card, email: str | None) -> Json:
    """Try a card that someone typed; returns the intent, succeeded or with its error."""
    method = methods.create_card(context, card, email)
    intent = _pay(context, intent, method, card)
    if intent["status"] == "succeeded" and intent["customer"] and intent["setup_future_usage"]:
        methods.keep(context, method, intent["customer"], is_authenticated=True)
    return intent


def pay_by_kept_card(context: Context, intent: Json, method: Json) -> Json:
    """Charge a card that a customer keeps, while the customer is away."""
    return _pay(context, intent, method, methods.card_behind(context, method, is_off_session=True))


def start_bank_debit(context: Context, intent: Json, email: str | None) -> Json:
    """Begin a payment whose outcome arrives days later."""
    method = methods.create_bank_account(context, email)
    charge = charges.create(context, intent, method, Card("0000"))
    charge |= {"status": "pending", "paid": False, "captured": True, "amount_captured": 0}
    context.store.save(charge)
    intent |= {
        "payment_method": method["id"],
        "latest_charge": charge["id"],
        "status": "processing",
        "last_payment_error": None,
    }
    context.store.save(intent)
    context.emit("charge.pending", charge)
    context.emit("payment_intent.processing", intent)
    return intent


def finish_bank_debit(context: Context, intent: Json, *, succeeds: bool) -> Json:
    """The outcome of a bank debit."""
    charge = context.get("charge", intent["latest_charge"])
    if succeeds:
        return _succeed(context, intent, charge)
    message = "The customer's account has insufficient funds to cover this payment."
    refused = Card("0000", code="insufficient_funds", message=message)
    return _decline(context, intent, charge, refused)


def end(context: Context, intent: Json, reason: str | None) -> Json:
    """Cancel an intent that nobody will pay any more."""
    intent |= {"status": "canceled", "canceled_at": context.now, "cancellation_reason": reason}
    context.store.save(intent)
    context.emit("payment_intent.canceled", intent)
    return intent


def refusal(context: Context, intent: Json, method: Json) -> errors.EffectiveError:
    """What the caller is told whose charge was refused."""
    error = intent["last_payment_error"]
    return errors.card_error(
        error["message"],
        error["code"],
        error.get("decline_code", ""),
        charge=error["charge"],
        payment_intent=intent,
        payment_method=context.get("payment_method", method["id"]),
    )


def check_amount(amount: int) -> None:
    if amount < AMOUNT_CENTS_MIN:
        raise errors.invalid_request(
            f"Amount must be at least ${AMOUNT_CENTS_MIN / 100:.2f} usd",
            code="amount_too_small",
            param="amount",
        )
    if amount > AMOUNT_CENTS_MAX:
        raise errors.invalid_request(
            f"Amount must be no more than ${AMOUNT_CENTS_MAX / 100:,.2f}",
            code="amount_too_large",
            param="amount",
        )


def _pay(context: Context, intent: Json, method: Json, card: Card) -> Json:
    charge = charges.create(context, intent, method, card)
    if card.code:
        return _decline(context, intent, charge, card)
    intent |= {"payment_method": method["id"], "latest_charge": charge["id"]}
    intent = _succeed(context, intent, charge)
    disputes.follow_card(context, charge, card)
    return intent


def _succeed(context: Context, intent: Json, charge: Json) -> Json:
    charges.succeed(context, charge)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "next_action": None,
    }
    context.store.save(intent)
    context.emit("payment_intent.succeeded", intent)
    return intent


def _decline(context: Context, intent: Json, charge: Json, card: Card) -> Json:
    charges.decline(context, charge, card)
    error = errors.card_error(card.message, card.code, card.decline_code, charge=charge["id"]).body[
        "error"
    ]
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "latest_charge": charge["id"],
        "last_payment_error": error,
    }
    context.store.save(intent)
    context.emit("charge.failed", charge)
    context.emit("payment_intent.payment_failed", intent)
    return intent
