"""Disputes and early fraud warnings: money that the payer's bank takes back."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, checks
from fakestripe.store import Query

Json = dict[str, Any]

FEE_CENTS = 1_500
EVIDENCE_WITHIN_S = 7 * 86_400

REASONS = (
    "bank_cannot_process", "credit_not_processed", "customer_initiated", "duplicate",
    "fraudulent", "general", "product_not_received", "product_unacceptable",
    "subscription_canceled", "unrecognized",
)  # fmt: skip
FRAUD_TYPES = (
    "card_never_received", "fraudulent_card_application", "made_with_counterfeit_card",
    "made_with_lost_card", "made_with_stolen_card", "misc", "unauthorized_use_of_card",
)  # fmt: skip

_EVIDENCE = (
    "access_activity_log", "billing_address", "cancellation_policy",
    "cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication",
    "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature",
    "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id",
    "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
    "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address",
    "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number",
    "uncategorized_file", "uncategorized_text",
)  # fmt: skip
_OPEN = ("needs_response", "under_review", "warning_needs_response", "warning_under_review")


def follow_card(context: Context, charge: Json, card: Card) -> None:
    """Do what the number of a test card promises after its charge."""
    if card.has_fraud_warning:
        warn(context, charge["id"], "made_with_stolen_card")
    if card.dispute_reason:
        open_dispute(context, charge["id"], reason=card.dispute_reason)


def open_dispute(
    context: Context,
    charge_id: str,
    *,
    reason: str = "fraudulent",
    amount: int = 0,
    fee_cents: int = FEE_CENTS,
    is_inquiry: bool = False,
) -> Json:
    """The payer tells the bank that a charge is not theirs.

    Args:
        context: The transaction to work in.
        charge_id: A charge that succeeded.
        reason: One of `REASONS`.
        amount: Cents; 0 is the whole charge.
        fee_cents: What Stripe takes for the trouble.
        is_inquiry: The bank only asks; no money moves.
    """
    charge = context.get("charge", charge_id)
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise errors.invalid_request("This charge cannot be disputed.")
    if not 0 <= amount <= charge["amount"]:
        raise errors.invalid_request("A dispute is about the charge or a part.", param="amount")
    dispute = _new_dispute(context, charge, reason, amount or charge["amount"], is_inquiry)
    context.store.insert(dispute)
    charge["disputed"] = True
    context.store.save(charge)
    quieten_warnings(context, charge_id)
    context.emit("charge.dispute.created", dispute)
    context.emit("charge.updated", charge, {"disputed": False})
    if not is_inquiry:
        _withdraw(context, dispute, fee_cents)
    return dispute


def close_dispute(
    context: Context, dispute_id: str, *, status: str, fee_returned_cents: int
) -> Json:
    """The bank decides: won, lost, or (an inquiry) nothing came of it."""
    dispute = context.get("dispute", dispute_id)
    before = dispute["status"]
    if before not in _OPEN:
        raise errors.invalid_request("This dispute is already closed.")
    if before.startswith("warning") != (status == "warning_closed"):
        raise errors.invalid_request("An inquiry ends as warning_closed, and only an inquiry.")
    dispute |= {"status": status}
    if status == "won":
        movement = balance.record(
            context,
            dispute,
            kind="adjustment",
            amount=dispute["amount"],
            fee=-fee_returned_cents,
            category="dispute_reversal",
        )
        dispute["balance_transactions"].append(movement)
    context.store.save(dispute)
    if status == "won":
        context.emit("charge.dispute.funds_reinstated", dispute)
    context.emit("charge.dispute.closed", dispute, {"status": before})
    return dispute


def retrieve(context: Context, _params: Json, dispute_id: str) -> Json:
    return context.get("dispute", dispute_id)


def update(context: Context, params: Json, dispute_id: str) -> Json:
    """Evidence against a dispute; with `submit` the bank gets it."""
    checks.only(params, frozenset({"evidence", "metadata", "submit"}))
    checks.only(params.get("evidence", {}), frozenset(_EVIDENCE), prefix="evidence")
    before = context.get("dispute", dispute_id)
    if before["status"] not in _OPEN:
        raise errors.invalid_request("This dispute is already closed.")
    dispute = before | {
        "metadata": checks.metadata(params.get("metadata"), before["metadata"]),
        "evidence": before["evidence"] | params.get("evidence", {}),
    }
    dispute["evidence_details"] = before["evidence_details"] | {
        "has_evidence": any(dispute["evidence"][name] for name in _EVIDENCE)
    }
    if params.get("submit", True):
        dispute["evidence_details"]["submission_count"] += 1
        dispute["status"] = dispute["status"].replace("needs_response", "under_review")
    context.store.save(dispute)
    context.emit("charge.dispute.updated", dispute, {"evidence": before["evidence"]})
    return dispute


def accept(context: Context, params: Json, dispute_id: str) -> Json:
    """Give in."""
    checks.only(params, frozenset())
    return close_dispute(context, dispute_id, status="lost", fee_returned_cents=0)


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("dispute"),
        params,
        url="/v1/disputes",
        equal=("charge", "payment_intent"),
    )


def is_withdrawn(context: Context, charge_id: str) -> bool:
    """Whether a bank holds the money of a charge back."""
    query = Query("dispute").equals("charge", charge_id)
    states = {dispute["status"] for dispute in context.store.list_all(query)}
    return bool(states & {"needs_response", "under_review", "lost"})


def warn(context: Context, charge_id: str, fraud_type: str) -> Json:
    """The card's network reports a charge as fraud, before any dispute."""
    charge = context.get("charge", charge_id)
    warning: Json = {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": not (charge["disputed"] or charge["refunded"]),
        "charge": charge_id,
        "created": context.now,
        "fraud_type": fraud_type,
        "livemode": False,
        "payment_intent": charge["payment_intent"],
    }
    context.store.insert(warning)
    context.emit("radar.early_fraud_warning.created", warning)
    return warning


def quieten_warnings(context: Context, charge_id: str) -> None:
    """There is nothing left to do about a charge that was refunded or disputed."""
    query = Query("radar.early_fraud_warning").equals("charge", charge_id)
    for warning in context.store.list_all(query):
        if warning["actionable"]:
            warning["actionable"] = False
            context.store.save(warning)
            context.emit("radar.early_fraud_warning.updated", warning, {"actionable": True})


def retrieve_warning(context: Context, _params: Json, warning_id: str) -> Json:
    return context.get("radar.early_fraud_warning", warning_id)


def list_warnings(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("radar.early_fraud_warning"),
        params,
        url="/v1/radar/early_fraud_warnings",
        equal=("charge", "payment_intent"),
    )


def _withdraw(context: Context, dispute: Json, fee_cents: int) -> None:
    movement = balance.record(
        context,
        dispute,
        kind="adjustment",
        amount=-dispute["amount"],
        fee=fee_cents,
        category="dispute",
    )
    dispute["balance_transactions"].append(movement)
    context.store.save(dispute)
    context.emit("charge.dispute.funds_withdrawn", dispute)


def _new_dispute(
    context: Context, charge: Json, reason: str, amount: int, is_inquiry: bool
) -> Json:
    card = charge["payment_method_details"].get("card", {})
    return {
        "id": new_id("du"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": context.now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": context.now + EVIDENCE_WITHIN_S,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": is_inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "type": "card",
            "card": {
                "brand": card.get("brand", "visa"),
                "case_type": "inquiry" if is_inquiry else "chargeback",
                "network_reason_code": "83",
            },
        },
        "reason": reason,
        "status": "warning_needs_response" if is_inquiry else "needs_response",
    }
