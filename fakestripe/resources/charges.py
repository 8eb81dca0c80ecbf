"""Charges: one attempt to take money each, and what Stripe takes of it."""

from __future__ import annotations

from typing import Any

from fakestripe import cards, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, methods
from fakestripe.store import Query

Json = dict[str, Any]

# What Stripe takes for a card in the United States; the cents are rounded half up.
CARD_FEE_PERMILLE = 29
CARD_FEE_FIXED_CENTS = 30
BANK_FEE_PERMILLE = 8
BANK_FEE_MAX_CENTS = 500

_RISK_SCORES = {"normal": 12, "elevated": 68, "highest": 92}


def retrieve(context: Context, _params: Json, charge_id: str) -> Json:
    return context.get("charge", charge_id)


def update(context: Context, params: Json, charge_id: str) -> Json:
    charge = context.get("charge", charge_id)
    return balance.metadata_only(context, params, charge, "charge.updated")


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("charge"),
        params,
        url="/v1/charges",
        equal=("customer", "payment_intent", "transfer_group"),
    )


def create(context: Context, intent: Json, method: Json, card: Card) -> Json:
    """A new attempt, not decided yet."""
    charge: Json = {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "STRONGROOM TEST",
        "captured": False,
        "created": context.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "fraud_details": {},
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "on_behalf_of": None,
        "outcome": {
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": card.risk_level,
            "risk_score": _RISK_SCORES[card.risk_level],
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": methods.details_of_charge(method),
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": "pending",
        "transfer_data": None,
        "transfer_group": intent["transfer_group"],
    }
    return context.insert(charge)


def succeed(context: Context, charge: Json) -> None:
    """Take the money."""
    charge |= {
        "status": "succeeded",
        "paid": True,
        "captured": True,
        "amount_captured": charge["amount"],
    }
    context.store.save(charge)
    # Captured asynchronously: the first event comes before the money is on the balance.
    context.emit("charge.succeeded", charge)
    is_at_once = card_of(context, charge).is_available_at_once
    movement = balance.record(
        context,
        charge,
        kind="charge",
        amount=charge["amount"],
        fee=_fee(charge),
        wait_s=0 if is_at_once else balance.AVAILABLE_AFTER_S,
    )
    charge["balance_transaction"] = movement["id"]
    context.store.save(charge)
    context.emit("charge.updated", charge, {"balance_transaction": None})


def decline(context: Context, charge: Json, card: Card) -> None:
    """Leave the attempt behind as failed."""
    charge |= {
        "status": "failed",
        "paid": False,
        "captured": False,
        "amount_captured": 0,
        "failure_code": card.code,
        "failure_message": card.message,
        "outcome": {
            "network_status": "declined_by_network",
            "reason": card.decline_code or card.code,
            "risk_level": "normal",
            "seller_message": "The bank did not return any further details with this decline.",
            "type": "issuer_declined",
        },
    }
    context.store.save(charge)


def card_of(context: Context, charge: Json) -> Card:
    """The test card behind a charge, whose number says what happens to it later."""
    return cards.read(context.store.find_private(charge["payment_method"]).get("number", ""))


def _fee(charge: Json) -> int:
    amount: int = charge["amount"]
    if charge["payment_method_details"]["type"] == "us_bank_account":
        return min((amount * BANK_FEE_PERMILLE + 500) // 1_000, BANK_FEE_MAX_CENTS)
    return (amount * CARD_FEE_PERMILLE + 500) // 1_000 + CARD_FEE_FIXED_CENTS
