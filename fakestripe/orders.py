"""Orders of the control plane about objects: what people, banks and Stripe do to them.

| address below /_test/ | body | effect |
|---|---|---|
| checkout/{id}/pay | card_number, authenticated, or delayed | act as a person on the page would |
| checkout/{id}/settle | succeeds | decide a delayed payment |
| tax | rate_bps | the rate of `automatic_tax` |
| refunds/{id}/settle | status, failure_reason | the bank's word on a refund |
| charges/{id}/dispute | reason, amount, fee_cents, is_inquiry | the payer disputes a charge |
| disputes/{id}/close | status, fee_returned_cents | won, lost or warning_closed |
| charges/{id}/fraud_warning | fraud_type | the card's network reports fraud |
| accounts/{id}/onboard | outcome | complete, review, incomplete or wrong, as on the page |
| accounts/{id}/capability | status, due | Stripe gives or takes the right to receive |
| accounts/{id}/spend | amount | the creator's own balance is paid out |
| meters | delay_s | how long a report waits to be counted |
| mutate | id, action, members | delete, alter or duplicate an object behind everyone's back |
| balance/move | amount | a top-up of the platform's balance, or (negative) a payout |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakestripe import cards, mutate
from fakestripe.context import Context
from fakestripe.resources import (
    accounts,
    balance,
    checkout,
    checkout_lines,
    disputes,
    meters,
    refunds,
)

Json = dict[str, Any]
# Called with the context, the body, and the ids in the address by name.
Order = Callable[..., Json]

TIMES_MAX = 1_000
DELAY_S_MAX = 600


class OrderError(Exception):
    """The control plane was told something it does not understand."""


def pay_checkout(context: Context, body: Json, session_id: str) -> Json:
    order = read(body, card_number=cards.SUCCESS, authenticated=True, delayed=False)
    if order["delayed"]:
        return checkout.pay_later(context, session_id)
    return checkout.pay(
        context, session_id, order["card_number"], is_authenticated=order["authenticated"]
    )


def settle_checkout(context: Context, body: Json, session_id: str) -> Json:
    return checkout.settle(context, session_id, succeeds=read(body, succeeds=bool)["succeeds"])


def set_tax(context: Context, body: Json) -> Json:
    order = read(body, rate_bps=int)
    _in_range(order, "rate_bps", 0, 10_000)
    context.store.set_setting(checkout_lines.TAX_SETTING, str(order["rate_bps"]))
    return order


def settle_refund(context: Context, body: Json, refund_id: str) -> Json:
    order = read(body, status=str, failure_reason="expired_or_canceled_card")
    one_of(order, "status", ("pending", "succeeded", "failed"))
    one_of(order, "failure_reason", refunds.FAILURE_REASONS)
    return refunds.settle(context, refund_id, order["status"], order["failure_reason"])


def open_dispute(context: Context, body: Json, charge_id: str) -> Json:
    order = read(
        body, reason="fraudulent", amount=0, fee_cents=disputes.FEE_CENTS, is_inquiry=False
    )
    one_of(order, "reason", disputes.REASONS)
    return disputes.open_dispute(context, charge_id, **order)


def close_dispute(context: Context, body: Json, dispute_id: str) -> Json:
    order = read(body, status=str, fee_returned_cents=0)
    one_of(order, "status", ("won", "lost", "warning_closed"))
    return disputes.close_dispute(context, dispute_id, **order)


def warn_of_fraud(context: Context, body: Json, charge_id: str) -> Json:
    order = read(body, fraud_type="made_with_stolen_card")
    one_of(order, "fraud_type", disputes.FRAUD_TYPES)
    return disputes.warn(context, charge_id, order["fraud_type"])


def move_balance(context: Context, body: Json) -> Json:
    return balance.top_up(context, read(body, amount=int)["amount"])


def onboard_account(context: Context, body: Json, account_id: str) -> Json:
    order = read(body, outcome="complete")
    one_of(order, "outcome", accounts.OUTCOMES)
    return accounts.tell(context, account_id, order["outcome"])


def set_capability(context: Context, body: Json, account_id: str) -> Json:
    order = read(body, status=str, due="")
    one_of(order, "status", accounts.STATUSES)
    due = tuple(filter(None, order["due"].split(",")))
    return accounts.set_capability(context, account_id, order["status"], due)


def spend_balance(context: Context, body: Json, account_id: str) -> Json:
    amount = read(body, amount=int)["amount"]
    return {"balance_cents": accounts.move_balance(context, account_id, -amount)}


def set_meter_delay(context: Context, body: Json) -> Json:
    order = read(body, delay_s=int)
    _in_range(order, "delay_s", 0, 86_400)
    context.store.set_setting(meters.DELAY_SETTING, str(order["delay_s"]))
    return order


def falsify(context: Context, body: Json) -> Json:
    order = read(body, id=str, action=str, members={})
    one_of(order, "action", mutate.ACTIONS)
    return mutate.mutate(context, order["id"], order["action"], order["members"])


ORDERS: dict[str, Order] = {
    "/_test/checkout/{session_id}/pay": pay_checkout,
    "/_test/checkout/{session_id}/settle": settle_checkout,
    "/_test/tax": set_tax,
    "/_test/refunds/{refund_id}/settle": settle_refund,
    "/_test/charges/{charge_id}/dispute": open_dispute,
    "/_test/disputes/{dispute_id}/close": close_dispute,
    "/_test/charges/{charge_id}/fraud_warning": warn_of_fraud,
    "/_test/accounts/{account_id}/onboard": onboard_account,
    "/_test/accounts/{account_id}/capability": set_capability,
    "/_test/accounts/{account_id}/spend": spend_balance,
    "/_test/meters": set_meter_delay,
    "/_test/mutate": falsify,
    "/_test/balance/move": move_balance,
}


def read(body: Json, **members: Any) -> Json:
    """The members of an order; a type stands for one that must be given."""
    unknown = set(body) - set(members)
    if unknown:
        raise OrderError(f"not known: {', '.join(sorted(unknown))}")
    order = {}
    for name, default in members.items():
        kind = default if isinstance(default, type) else type(default)
        value = body.get(name, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if type(value) is not kind:
            raise OrderError(f"{name} must be given as {kind.__name__}")
        order[name] = value
    _in_range(order, "times", 1, TIMES_MAX)
    _in_range(order, "copies", 1, 100)
    _in_range(order, "delay_s", 0, DELAY_S_MAX)
    return order


def _in_range(order: Json, name: str, low: float, high: float) -> None:
    if not low <= order.get(name, low) <= high:
        raise OrderError(f"{name} must be from {low} to {high}")


def one_of(order: Json, name: str, options: tuple[str, ...]) -> None:
    if order[name] not in options:
        raise OrderError(f"{name} must be one of {', '.join(options)}")
