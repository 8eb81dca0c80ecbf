"""Refunds: at once, after a while, or failed after all."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, charges, checks, disputes
from fakestripe.store import Query

Json = dict[str, Any]

SETTLE_TASK = "refund.settle"
# "Some time later", in Stripe's words.
SETTLES_AFTER_S = 3_600

FAILURE_REASONS = (
    "charge_for_pending_refund_disputed", "declined", "expired_or_canceled_card",
    "insufficient_funds", "lost_or_stolen_card", "merchant_request", "unknown",
)  # fmt: skip

_PARAMS = frozenset({"charge", "payment_intent", "amount", "reason", "metadata"})


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    charge = _refundable_charge(context, params)
    rest = charge["amount"] - charge["amount_refunded"]
    amount = params.get("amount", rest)
    _check_amount(charge, amount, rest)
    manner = charges.card_of(context, charge).refund
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
        "status": "pending" if manner == "slow" else "succeeded",
        "transfer_reversal": None,
    }
    if manner:
        context.after(SETTLES_AFTER_S, SETTLE_TASK, refund["id"])
    # Stripe keeps its fee when a payment is given back.
    movement = balance.record(context, refund, kind="refund", amount=-amount)
    refund["balance_transaction"] = movement["id"]
    context.store.insert(refund)
    _count_refunded(context, charge, amount)
    context.emit("refund.created", refund)
    context.emit("charge.refunded", charge, {"amount_refunded": charge["amount"] - rest})
    return refund


def retrieve(context: Context, _params: Json, refund_id: str) -> Json:
    return context.get("refund", refund_id)


def update(context: Context, params: Json, refund_id: str) -> Json:
    refund = context.get("refund", refund_id)
    return balance.metadata_only(context, params, refund, "refund.updated")


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("refund"),
        params,
        url="/v1/refunds",
        equal=("charge", "payment_intent"),
    )


def settle_due(context: Context, refund_id: str) -> None:
    """Decide the refund of a card whose refunds take their time."""
    refund = context.store.find(refund_id, "refund")
    if refund is None or refund["status"] not in ("pending", "succeeded"):
        return
    manner = charges.card_of(context, context.get("charge", refund["charge"])).refund
    if manner == "fails":
        _fail(context, refund, "expired_or_canceled_card")
    elif refund["status"] == "pending":
        _succeed(context, refund)


def settle(context: Context, refund_id: str, status: str, failure_reason: str) -> Json:
    """What the bank says to a refund: pending again, succeeded, or failed."""
    refund = context.get("refund", refund_id)
    if refund["status"] == "failed":
        raise errors.invalid_request("This refund has failed and stays so.")
    if status == "failed":
        return _fail(context, refund, failure_reason)
    if status == "succeeded":
        return _succeed(context, refund)
    before = refund["status"]
    refund["status"] = "pending"
    context.store.save(refund)
    context.emit("refund.updated", refund, {"status": before})
    return refund


def _succeed(context: Context, refund: Json) -> Json:
    before = refund["status"]
    refund["status"] = "succeeded"
    context.store.save(refund)
    context.emit("refund.updated", refund, {"status": before})
    return refund


def _fail(context: Context, refund: Json, reason: str) -> Json:
    """The bank would not take the money; it is back on the balance."""
    movement = balance.record(context, refund, kind="refund_failure", amount=refund["amount"])
    before = refund["status"]
    refund |= {
        "status": "failed",
        "failure_reason": reason,
        "failure_balance_transaction": movement["id"],
    }
    context.store.save(refund)
    charge = context.get("charge", refund["charge"])
    _count_refunded(context, charge, -refund["amount"])
    context.emit("refund.failed", refund)
    context.emit("refund.updated", refund, {"status": before})
    return refund


def _count_refunded(context: Context, charge: Json, amount: int) -> None:
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    context.store.save(charge)
    if charge["refunded"]:
        disputes.quieten_warnings(context, charge["id"])


def _refundable_charge(context: Context, params: Json) -> Json:
    if ("charge" in params) == ("payment_intent" in params):
        raise errors.invalid_request(
            "You must provide exactly one of charge or payment_intent.", param="charge"
        )
    charge_id = params.get("charge")
    if charge_id is None:
        intent = context.get_named("payment_intent", params["payment_intent"], "payment_intent")
        charge_id = intent["latest_charge"]
    charge = context.store.find(charge_id or "", "charge")
    if charge is None and "charge" in params:
        raise errors.no_such("charge", charge_id or "", param="charge", status=400)
    if charge is None or charge["status"] != "succeeded":
        raise errors.invalid_request("This payment has no successful charge to refund.")
    if disputes.is_withdrawn(context, charge["id"]):
        raise errors.invalid_request(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
        )
    return charge


def _check_amount(charge: Json, amount: int, rest: int) -> None:
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
