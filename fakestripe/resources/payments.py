"""Payment intents, charges, refunds, and the balance transactions they leave behind."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists, views
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import checks
from fakestripe.store import Query

Json = dict[str, Any]

# What Stripe takes for a card in the United States; the cents are rounded half up.
CARD_FEE_PERMILLE = 29
CARD_FEE_FIXED_CENTS = 30
BANK_FEE_PERMILLE = 8
BANK_FEE_MAX_CENTS = 500

AVAILABLE_AFTER_S = 2 * 86_400

_REFUND_PARAMS = frozenset({"charge", "payment_intent", "amount", "reason", "metadata"})


def retrieve_intent(context: Context, params: Json, intent_id: str) -> Json:
    checks.only(params, frozenset())
    return _get(context, "payment_intent", intent_id)


def list_intents(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("payment_intent"),
        params,
        url="/v1/payment_intents",
        equal=("customer",),
    )


def retrieve_charge(context: Context, _params: Json, charge_id: str) -> Json:
    return _get(context, "charge", charge_id)


def list_charges(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("charge"),
        params,
        url="/v1/charges",
        equal=("customer", "payment_intent", "transfer_group"),
    )


def retrieve_payment_method(context: Context, _params: Json, method_id: str) -> Json:
    return _get(context, "payment_method", method_id)


def retrieve_balance_transaction(context: Context, _params: Json, transaction_id: str) -> Json:
    return _get(context, "balance_transaction", transaction_id)


def list_balance_transactions(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("balance_transaction"),
        params,
        url="/v1/balance_transactions",
        equal=("type", "source", "currency"),
    )


def retrieve_balance(context: Context, _params: Json) -> Json:
    """The sums of all balance transactions, by currency and availability."""
    sums: dict[str, dict[str, int]] = {"available": {"usd": 0}, "pending": {"usd": 0}}
    for row in context.store.list_all(Query("balance_transaction")):
        side = sums[views.show(context, row)["status"]]
        side[row["currency"]] = side.get(row["currency"], 0) + row["net"]
    return {
        "object": "balance",
        "livemode": False,
        **{
            side: [
                {"amount": amount, "currency": currency, "source_types": {"card": amount}}
                for currency, amount in sorted(by_currency.items())
            ]
            for side, by_currency in sums.items()
        },
    }


def create_intent(context: Context, *, amount: int, currency: str, details: Json) -> Json:
    """The intent behind a Checkout Session, made when someone first tries to pay.

    Args:
        context: The transaction to work in.
        amount: Smallest unit of the currency.
        currency: Lower case.
        details: Customer and `payment_intent_data` of the session.
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
        "automatic_payment_methods": None,
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
        "transfer_group": None,
    }
    context.store.insert(intent)
    context.emit("payment_intent.created", intent)
    return intent


def pay_by_card(context: Context, intent: Json, card: Card, email: str | None) -> Json:
    """Try a card on an intent; returns the intent, succeeded or with its error."""
    method = _payment_method(context, intent, email, _card_details(card))
    charge = _charge(context, intent, method, email, _card_charge_details(card))
    if card.code:
        return _decline(context, intent, charge, card)
    intent |= {"payment_method": method["id"], "latest_charge": charge["id"]}
    return _succeed(context, intent, charge)


def start_bank_debit(context: Context, intent: Json, email: str | None) -> Json:
    """Begin a payment whose outcome arrives days later."""
    details = {"type": "us_bank_account", "us_bank_account": dict(_BANK)}
    method = _payment_method(context, intent, email, details)
    charge = _charge(context, intent, method, email, details)
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
    charge = _get(context, "charge", intent["latest_charge"])
    if succeeds:
        return _succeed(context, intent, charge)
    message = "The customer's account has insufficient funds to cover this payment."
    refused = Card("0000", code="insufficient_funds", message=message)
    return _decline(context, intent, charge, refused)


def cancel_intent(context: Context, intent_id: str) -> None:
    """End an intent whose session expired."""
    intent = _get(context, "payment_intent", intent_id)
    intent |= {
        "status": "canceled",
        "canceled_at": context.now,
        "cancellation_reason": "expired",
    }
    context.store.save(intent)
    context.emit("payment_intent.canceled", intent)


def create_refund(context: Context, params: Json) -> Json:
    checks.only(params, _REFUND_PARAMS)
    charge = _refundable_charge(context, params)
    rest = charge["amount"] - charge["amount_refunded"]
    amount = params.get("amount", rest)
    _check_refund(charge, amount, rest)
    refund: Json = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": context.now,
        "currency": charge["currency"],
        "destination_details": {
            "type": "card",
            "card": {"type": "refund", "reference_status": "pending"},
        },
        "metadata": checks.metadata(params.get("metadata")),
        "payment_intent": charge["payment_intent"],
        "reason": params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    # Stripe keeps its fee when a payment is given back.
    movement = _balance_transaction(context, refund, kind="refund", amount=-amount, fee=0)
    refund["balance_transaction"] = movement["id"]
    context.store.insert(refund)
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    context.store.save(charge)
    context.emit("refund.created", refund)
    context.emit("charge.refunded", charge, {"amount_refunded": charge["amount"] - rest})
    return refund


def retrieve_refund(context: Context, _params: Json, refund_id: str) -> Json:
    return _get(context, "refund", refund_id)


def list_refunds(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("refund"),
        params,
        url="/v1/refunds",
        equal=("charge", "payment_intent"),
    )


def _get(context: Context, kind: str, identifier: str) -> Json:
    body = context.store.find(identifier, kind)
    if body is None:
        raise errors.no_such(kind, identifier)
    return body


def _succeed(context: Context, intent: Json, charge: Json) -> Json:
    charge |= {
        "status": "succeeded",
        "paid": True,
        "captured": True,
        "amount_captured": charge["amount"],
    }
    context.store.save(charge)
    # Captured asynchronously: the first event comes before the money is on the balance.
    context.emit("charge.succeeded", charge)
    movement = _balance_transaction(
        context, charge, kind="charge", amount=charge["amount"], fee=_fee(charge)
    )
    charge["balance_transaction"] = movement["id"]
    context.store.save(charge)
    context.emit("charge.updated", charge, {"balance_transaction": None})
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
    refusal = errors.ApiError(402, "card_error", card.message, code=card.code, charge=charge["id"])
    error = refusal.body["error"]
    if card.decline_code:
        error["decline_code"] = card.decline_code
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


def _payment_method(context: Context, intent: Json, email: str | None, details: Json) -> Json:
    is_kept = intent["customer"] is not None and intent["setup_future_usage"] is not None
    method: Json = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": _billing_details(email),
        "created": context.now,
        "customer": intent["customer"] if is_kept else None,
        "livemode": False,
        "metadata": {},
        **details,
    }
    context.check("payment_method", method)
    context.store.insert(method)
    return method


def _charge(context: Context, intent: Json, method: Json, email: str | None, details: Json) -> Json:
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
        "billing_details": _billing_details(email),
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
            "risk_level": "normal",
            "risk_score": 12,
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": details,
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
        "transfer_group": None,
    }
    context.store.insert(charge)
    return charge


def _balance_transaction(
    context: Context, source: Json, *, kind: str, amount: int, fee: int
) -> Json:
    currency = source["currency"]
    fee_details = [
        {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]
    # A refund leaves the balance at once; what comes in has to be waited for.
    wait_s = AVAILABLE_AFTER_S if amount > 0 else 0
    movement: Json = {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": context.now + wait_s,
        "balance_type": "payments",
        "created": context.now,
        "currency": currency,
        "description": source.get("description"),
        "exchange_rate": None,
        "fee": fee,
        "fee_details": fee_details if fee else [],
        "net": amount - fee,
        "reporting_category": kind,
        "source": source["id"],
        "status": "pending" if wait_s else "available",
        "type": kind,
    }
    context.check("balance_transaction", movement)
    context.store.insert(movement)
    return movement


def _fee(charge: Json) -> int:
    amount: int = charge["amount"]
    if charge["payment_method_details"]["type"] == "us_bank_account":
        return min((amount * BANK_FEE_PERMILLE + 500) // 1_000, BANK_FEE_MAX_CENTS)
    return (amount * CARD_FEE_PERMILLE + 500) // 1_000 + CARD_FEE_FIXED_CENTS


def _refundable_charge(context: Context, params: Json) -> Json:
    if ("charge" in params) == ("payment_intent" in params):
        raise errors.invalid_request(
            "You must provide exactly one of charge or payment_intent.", param="charge"
        )
    charge_id = params.get("charge")
    if charge_id is None:
        intent = context.store.find(params["payment_intent"], "payment_intent")
        if intent is None:
            raise errors.no_such(
                "payment_intent", params["payment_intent"], param="payment_intent", status=400
            )
        charge_id = intent["latest_charge"]
    charge = context.store.find(charge_id or "", "charge")
    if charge is None and "charge" in params:
        raise errors.no_such("charge", charge_id or "", param="charge", status=400)
    if charge is None or charge["status"] != "succeeded":
        raise errors.invalid_request("This payment has no successful charge to refund.")
    return charge


def _check_refund(charge: Json, amount: int, rest: int) -> None:
    if rest == 0:
        raise errors.invalid_request(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    if amount < 1:
        raise errors.invalid_request(
            "Invalid positive integer", code="parameter_invalid_integer", param="amount"
        )
    if amount > rest:
        raise errors.invalid_request(
            f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge "
            f"(${rest / 100:.2f})",
            param="amount",
        )


def _billing_details(email: str | None) -> Json:
    return {"address": None, "email": email, "name": None, "phone": None, "tax_id": None}


def _card_details(card: Card) -> Json:
    return {"type": "card", "card": _card(card)}


def _card_charge_details(card: Card) -> Json:
    return {"type": "card", "card": _card(card) | {"network": card.brand}}


def _card(card: Card) -> Json:
    return {
        "brand": card.brand,
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "fingerprint": f"test{card.last4}",
        "funding": "credit",
        "last4": card.last4,
        "wallet": None,
    }


_BANK = {
    "account_holder_type": "individual",
    "account_type": "checking",
    "bank_name": "STRIPE TEST BANK",
    "fingerprint": "testbank",
    "last4": "6789",
    "routing_number": "110000000",
}
