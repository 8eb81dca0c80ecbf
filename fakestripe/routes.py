"""Which operations of Stripe's API the stand-in answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakestripe import thin
from fakestripe.resources import (
    accounts,
    balance,
    charges,
    checkout,
    customers,
    disputes,
    events,
    intents,
    methods,
    refunds,
    setup,
    transfers,
)

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
    ("POST", "/v1/checkout/sessions/{session}"): checkout.update,
    ("POST", "/v1/checkout/sessions/{session}/expire"): checkout.expire,
    ("GET", "/v1/checkout/sessions/{session}/line_items"): checkout.list_line_items,
    ("GET", "/v1/setup_intents"): setup.list_all,
    ("GET", "/v1/setup_intents/{intent}"): setup.retrieve,
    ("POST", "/v1/payment_intents"): intents.create,
    ("GET", "/v1/payment_intents"): intents.list_all,
    ("GET", "/v1/payment_intents/{intent}"): intents.retrieve,
    ("POST", "/v1/payment_intents/{intent}"): intents.update,
    ("POST", "/v1/payment_intents/{intent}/cancel"): intents.cancel,
    ("GET", "/v1/charges"): charges.list_all,
    ("GET", "/v1/charges/{charge}"): charges.retrieve,
    ("POST", "/v1/charges/{charge}"): charges.update,
    ("GET", "/v1/payment_methods"): methods.list_all,
    ("GET", "/v1/customers/{customer}/payment_methods"): methods.list_of_customer,
    ("GET", "/v1/payment_methods/{payment_method}"): methods.retrieve,
    ("POST", "/v1/payment_methods/{payment_method}/attach"): methods.attach,
    ("POST", "/v1/payment_methods/{payment_method}/detach"): methods.detach,
    ("GET", "/v1/balance"): balance.retrieve,
    ("GET", "/v1/balance_transactions"): balance.list_transactions,
    ("GET", "/v1/balance_transactions/{id}"): balance.retrieve_transaction,
    ("POST", "/v1/refunds"): refunds.create,
    ("GET", "/v1/refunds"): refunds.list_all,
    ("GET", "/v1/refunds/{refund}"): refunds.retrieve,
    ("POST", "/v1/refunds/{refund}"): refunds.update,
    ("GET", "/v1/disputes"): disputes.list_all,
    ("GET", "/v1/disputes/{dispute}"): disputes.retrieve,
    ("POST", "/v1/disputes/{dispute}"): disputes.update,
    ("POST", "/v1/disputes/{dispute}/close"): disputes.accept,
    ("GET", "/v1/radar/early_fraud_warnings"): disputes.list_warnings,
    ("GET", "/v1/radar/early_fraud_warnings/{early_fraud_warning}"): disputes.retrieve_warning,
    ("POST", "/v2/core/accounts"): accounts.create,
    ("GET", "/v2/core/accounts/{id}"): accounts.retrieve,
    ("POST", "/v2/core/accounts/{id}"): accounts.update,
    ("POST", "/v2/core/account_links"): accounts.create_link,
    ("GET", "/v2/core/events/{id}"): thin.retrieve,
    ("POST", "/v1/transfers"): transfers.create,
    ("GET", "/v1/transfers"): transfers.list_all,
    ("GET", "/v1/transfers/{transfer}"): transfers.retrieve,
    ("POST", "/v1/transfers/{transfer}"): transfers.update,
    ("POST", "/v1/transfers/{id}/reversals"): transfers.reverse,
    ("GET", "/v1/transfers/{id}/reversals"): transfers.list_reversals,
    ("GET", "/v1/transfers/{transfer}/reversals/{id}"): transfers.retrieve_reversal,
    ("GET", "/v1/events"): events.list_all,
    ("GET", "/v1/events/{id}"): events.retrieve,
}
