"""Which operations of Stripe's API the stand-in answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakestripe.resources import checkout, customers, events, payments

Json = dict[str, Any]

# Called with the context, the typed parameters and the ids in the address.
Handler = Callable[..., Json]

HANDLERS: dict[tuple[str, str], Handler] = {
    ("POST", "/v1/customers"): customers.create,
    ("GET", "/v1/customers"): customers.list_all,
    ("GET", "/v1/customers/{customer}"): customers.retrieve,
    ("POST", "/v1/customers/{customer}"): customers.update,
    ("POST", "/v1/checkout/sessions"): checkout.create,
    ("GET", "/v1/checkout/sessions"): checkout.list_all,
    ("GET", "/v1/checkout/sessions/{session}"): checkout.retrieve,
    ("POST", "/v1/checkout/sessions/{session}/expire"): checkout.expire,
    ("GET", "/v1/checkout/sessions/{session}/line_items"): checkout.list_line_items,
    ("GET", "/v1/payment_intents"): payments.list_intents,
    ("GET", "/v1/payment_intents/{intent}"): payments.retrieve_intent,
    ("GET", "/v1/charges"): payments.list_charges,
    ("GET", "/v1/charges/{charge}"): payments.retrieve_charge,
    ("GET", "/v1/payment_methods/{payment_method}"): payments.retrieve_payment_method,
    ("GET", "/v1/balance"): payments.retrieve_balance,
    ("GET", "/v1/balance_transactions"): payments.list_balance_transactions,
    ("GET", "/v1/balance_transactions/{id}"): payments.retrieve_balance_transaction,
    ("POST", "/v1/refunds"): payments.create_refund,
    ("GET", "/v1/refunds"): payments.list_refunds,
    ("GET", "/v1/refunds/{refund}"): payments.retrieve_refund,
    ("GET", "/v1/events"): events.list_all,
    ("GET", "/v1/events/{id}"): events.retrieve,
}
