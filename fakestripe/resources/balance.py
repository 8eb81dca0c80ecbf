"""The platform's balance: one balance transaction for every movement, and their sums."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists, views
from fakestripe.context import Context, new_id
from fakestripe.resources import checks
from fakestripe.store import Query

Json = dict[str, Any]

AVAILABLE_AFTER_S = 2 * 86_400


def record(
    context: Context,
    source: Json,
    *,
    kind: str,
    amount: int,
    fee: int = 0,
    category: str = "",
    wait_s: int = 0,
) -> Json:
    """Write a movement down.

    Args:
        context: The transaction to work in.
        source: The object that moves the money.
        kind: Type of the balance transaction.
        amount: Cents; negative when the money leaves.
        fee: Cents that Stripe takes, negative when it gives a fee back.
        category: Reporting category, if it is not the type.
        wait_s: How long the money must be waited for.
    """
    currency = source["currency"]
    description = "Dispute fee" if category.startswith("dispute") else "Stripe processing fees"
    fee_details = [
        {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": description,
            "type": "stripe_fee",
        }
    ]
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
        "reporting_category": category or kind,
        "source": source["id"],
        "status": "pending" if wait_s else "available",
        "type": kind,
    }
    return context.insert(movement)


def retrieve_transaction(context: Context, _params: Json, transaction_id: str) -> Json:
    return context.get("balance_transaction", transaction_id)


def list_transactions(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("balance_transaction"),
        params,
        url="/v1/balance_transactions",
        equal=("type", "source", "currency"),
    )


def retrieve(context: Context, _params: Json) -> Json:
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


def available_cents(context: Context, currency: str) -> int:
    """What can be spent now."""
    query = Query("balance_transaction").equals("currency", currency)
    query.where("json_extract(body, '$.available_on') <= ?", context.now)
    return context.store.sum(query, "net")


def top_up(context: Context, amount: int) -> Json:
    """Put the platform's own money on its balance; a negative amount is a payout."""
    if amount == 0:
        raise errors.invalid_request("Nothing to move.", param="amount")
    kind, prefix = ("topup", "tu") if amount > 0 else ("payout", "po")
    source = {"id": new_id(prefix), "currency": "usd", "description": None}
    return record(context, source, kind=kind, amount=amount)


def metadata_only(context: Context, params: Json, before: Json, event_type: str) -> Json:
    """Change an object's metadata, which is all that our client ever changes of it."""
    checks.only(params, frozenset({"metadata"}))
    metadata = checks.metadata(params.get("metadata"), before["metadata"])
    if metadata == before["metadata"]:
        return before
    after = before | {"metadata": metadata}
    context.store.save(after)
    if event_type:
        context.emit(event_type, after, {"metadata": before["metadata"]})
    return after
