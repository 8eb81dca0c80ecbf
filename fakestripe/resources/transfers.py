"""Transfers to connected accounts, and their reversals."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import accounts, balance, checks
from fakestripe.store import Query

Json = dict[str, Any]

REVERSALS_SHOWN = 10

_PARAMS = frozenset({
    "amount", "currency", "destination", "description", "metadata", "transfer_group",
})  # fmt: skip


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    if "amount" not in params:
        raise errors.missing_parameter("amount")
    amount, currency = params["amount"], checks.currency(params["currency"], "currency")
    if amount < 1:
        raise errors.invalid_request(
            "Invalid positive integer", code="parameter_invalid_integer", param="amount"
        )
    account = context.store.find(params["destination"], accounts.KIND)
    if account is None:
        raise errors.no_such("destination", params["destination"], param="destination", status=400)
    if accounts.capability_of(account) != "active":
        raise errors.invalid_request(
            "Your destination account needs to have at least one of the following capabilities "
            "enabled: transfers, crypto_transfers, legacy_payments",
            code="insufficient_capabilities_for_transfer",
        )
    if balance.available_cents(context, currency) < amount:
        raise errors.insufficient_balance(
            "You have insufficient available funds in your Stripe account. Try adding funds "
            "directly to your available balance by creating Charges using the "
            "4000000000000077 test card."
        )
    transfer: Json = {
        "id": new_id("tr"),
        "object": "transfer",
        "amount": amount,
        "amount_reversed": 0,
        "balance_transaction": None,
        "created": context.now,
        "currency": currency,
        "description": params.get("description"),
        "destination": account["id"],
        "destination_payment": new_id("py"),
        "livemode": False,
        "metadata": checks.metadata(params.get("metadata")),
        "reversals": {"object": "list", "data": [], "has_more": False, "url": ""},
        "reversed": False,
        "source_transaction": None,
        "source_type": "card",
        "transfer_group": params.get("transfer_group"),
    }
    transfer["reversals"]["url"] = _reversals_url(transfer["id"])
    movement = balance.record(context, transfer, kind="transfer", amount=-amount)
    transfer["balance_transaction"] = movement["id"]
    context.store.insert(transfer)
    accounts.move_balance(context, account["id"], amount)
    context.emit("transfer.created", transfer)
    return transfer


def retrieve(context: Context, _params: Json, transfer_id: str) -> Json:
    return context.get("transfer", transfer_id)


def update(context: Context, params: Json, transfer_id: str) -> Json:
    transfer = context.get("transfer", transfer_id)
    return balance.metadata_only(context, params, transfer, "transfer.updated")


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("transfer"),
        params,
        url="/v1/transfers",
        equal=("destination", "transfer_group"),
    )


def reverse(context: Context, params: Json, transfer_id: str) -> Json:
    checks.only(params, frozenset({"amount", "metadata", "description"}))
    transfer = context.get("transfer", transfer_id)
    rest = transfer["amount"] - transfer["amount_reversed"]
    amount = params.get("amount", rest)
    if amount < 1 or amount > rest:
        raise errors.invalid_request(
            f"The reversal amount ({amount}) must be positive and no more than what is left of "
            f"the transfer ({rest}).",
            param="amount",
        )
    accounts.move_balance(context, transfer["destination"], -amount)
    reversal: Json = {
        "id": new_id("trr"),
        "object": "transfer_reversal",
        "amount": amount,
        "balance_transaction": None,
        "created": context.now,
        "currency": transfer["currency"],
        "destination_payment_refund": None,
        "metadata": checks.metadata(params.get("metadata")),
        "source_refund": None,
        "transfer": transfer_id,
    }
    movement = balance.record(context, reversal, kind="transfer_refund", amount=amount)
    reversal["balance_transaction"] = movement["id"]
    context.insert(reversal)
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    _show_reversals(context, transfer)
    context.store.save(transfer)
    context.emit("transfer.reversed", transfer)
    return reversal


def retrieve_reversal(context: Context, _params: Json, transfer_id: str, reversal_id: str) -> Json:
    context.get("transfer", transfer_id)
    reversal = context.get("transfer_reversal", reversal_id)
    if reversal["transfer"] != transfer_id:
        raise errors.no_such("transfer_reversal", reversal_id)
    return reversal


def list_reversals(context: Context, params: Json, transfer_id: str) -> Json:
    context.get("transfer", transfer_id)
    query = Query("transfer_reversal").equals("transfer", transfer_id)
    return lists.list_objects(context.store, query, params, url=_reversals_url(transfer_id))


def _show_reversals(context: Context, transfer: Json) -> None:
    query = Query("transfer_reversal").equals("transfer", transfer["id"])
    found = context.store.list_all(query)[::-1]
    transfer["reversals"] |= {
        "data": found[:REVERSALS_SHOWN],
        "has_more": len(found) > REVERSALS_SHOWN,
    }


def _reversals_url(transfer_id: str) -> str:
    return f"/v1/transfers/{transfer_id}/reversals"
