"""Subscriptions that bill metered use after each period."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import balance, checks, customers, invoices, methods
from fakestripe.store import Query

Json = dict[str, Any]

CYCLE_TASK = "subscription.cycle"

_PARAMS = frozenset({
    "customer", "items", "billing_mode", "metadata", "default_payment_method",
    "collection_method", "off_session", "automatic_tax",
})  # fmt: skip
_ONLY: Json = {"billing_mode": {"type": "flexible"}, "collection_method": "charge_automatically"}


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    for name, value in _ONLY.items():
        if params.get(name, value) != value:
            raise errors.not_stood_in(f"the parameter {name} other than {value}")
    if "customer" not in params:
        raise errors.missing_parameter("customer")
    customers.require(context, params["customer"])
    if "default_payment_method" in params:
        methods.require_kept(context, params["default_payment_method"], params["customer"])
    is_taxed = params.get("automatic_tax", {}).get("enabled", False)
    subscription_id = new_id("sub")
    items = [
        _item(context, item, subscription_id, index)
        for index, item in enumerate(params.get("items", []))
    ]
    if not items:
        raise errors.missing_parameter("items")
    subscription: Json = {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": is_taxed,
            "liability": {"type": "self"} if is_taxed else None,
        },
        "billing_cycle_anchor": context.now,
        "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": context.now,
        "currency": items[0]["price"]["currency"],
        "customer": params["customer"],
        "days_until_due": None,
        "default_payment_method": params.get("default_payment_method"),
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {
            "object": "list",
            "data": items,
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={subscription_id}",
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": checks.metadata(params.get("metadata")),
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": context.now,
        "status": "active",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    }
    context.insert(subscription)
    context.store.insert_task(items[0]["current_period_end"], CYCLE_TASK, subscription_id)
    context.emit("customer.subscription.created", subscription)
    return subscription


def retrieve(context: Context, _params: Json, subscription_id: str) -> Json:
    return context.get("subscription", subscription_id)


def update(context: Context, params: Json, subscription_id: str) -> Json:
    """Its metadata, or which card pays it."""
    subscription = context.get("subscription", subscription_id)
    if "default_payment_method" in params:
        method_id = params["default_payment_method"]
        methods.require_kept(context, method_id, subscription["customer"])
        before = subscription["default_payment_method"]
        subscription["default_payment_method"] = method_id
        context.store.save(subscription)
        context.emit(
            "customer.subscription.updated", subscription, {"default_payment_method": before}
        )
        params = {name: params[name] for name in params if name != "default_payment_method"}
    return balance.metadata_only(context, params, subscription, "customer.subscription.updated")


def list_all(context: Context, params: Json) -> Json:
    query = Query("subscription")
    status = params.get("status")
    if status is None:
        query.where("json_extract(body, '$.status') != 'canceled'")
    elif status != "all":
        query.equals("status", "canceled" if status == "ended" else status)
    return lists.list_objects(
        context.store,
        query,
        params,
        url="/v1/subscriptions",
        equal=("customer",),
        other=("status",),
    )


def cancel(context: Context, params: Json, subscription_id: str) -> Json:
    """End it now; with `invoice_now` what was used since the last invoice is still billed."""
    checks.only(params, frozenset({"invoice_now", "prorate", "cancellation_details"}))
    subscription = context.get("subscription", subscription_id)
    if subscription["status"] == "canceled":
        raise errors.no_such("subscription", subscription_id)
    if params.get("invoice_now", False):
        [item] = subscription["items"]["data"]
        invoice = invoices.draft(
            context, subscription, item["current_period_start"], context.now, "subscription_update"
        )
        subscription["latest_invoice"] = invoice["id"]
    subscription |= {
        "status": "canceled",
        "canceled_at": context.now,
        "ended_at": context.now,
        "cancellation_details": {
            "comment": None,
            "feedback": None,
            "reason": "cancellation_requested",
        },
    }
    context.store.save(subscription)
    context.emit("customer.subscription.deleted", subscription)
    return subscription


def cycle_due(context: Context, subscription_id: str) -> None:
    """End a period: bill it, and begin the next."""
    subscription = context.store.find(subscription_id, "subscription")
    if subscription is None or subscription["status"] == "canceled":
        return
    [item] = subscription["items"]["data"]
    start, end = item["current_period_start"], item["current_period_end"]
    invoice = invoices.draft(context, subscription, start, end, "subscription_cycle")
    item |= {
        "current_period_start": end,
        "current_period_end": _period_end(
            subscription["billing_cycle_anchor"], item["price"]["recurring"], end
        ),
    }
    subscription["latest_invoice"] = invoice["id"]
    context.store.save(subscription)
    context.store.insert_task(item["current_period_end"], CYCLE_TASK, subscription_id)
    context.emit("customer.subscription.updated", subscription, {"latest_invoice": None})


def _item(context: Context, given: Json, subscription_id: str, index: int) -> Json:
    where = f"items[{index}]"
    checks.only(given, frozenset({"price", "metadata"}), prefix=where)
    if index > 0:
        raise errors.not_stood_in("more than one item of a subscription")
    if "price" not in given:
        raise errors.missing_parameter(f"{where}[price]")
    price = context.get_named("price", given["price"], f"{where}[price]")
    if not price["active"]:
        raise errors.invalid_request("The price is not active.", param=f"{where}[price]")
    recurring = price["recurring"] or {}
    if recurring.get("usage_type") != "metered":
        raise errors.not_stood_in("subscriptions to prices that are not metered")
    return {
        "id": new_id("si", 14),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": context.now,
        "current_period_end": _period_end(context.now, recurring, context.now),
        "current_period_start": context.now,
        "discounts": [],
        "metadata": checks.metadata(given.get("metadata")),
        "price": price,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def _period_end(anchor: int, recurring: Json, start: int) -> int:
    """The first end of a period after `start`; months keep the day of the anchor."""
    count = recurring["interval_count"]
    first = datetime.fromtimestamp(anchor, UTC)
    if recurring["interval"] in ("day", "week"):
        step_s = count * (1 if recurring["interval"] == "day" else 7) * 86_400
        return start + step_s
    months = count * (12 if recurring["interval"] == "year" else 1)
    number = 1
    while (end := _later(first, months * number)) <= datetime.fromtimestamp(start, UTC):
        number += 1
    return int(end.timestamp())


def _later(first: datetime, months: int) -> datetime:
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    clock = timedelta(hours=first.hour, minutes=first.minute, seconds=first.second)
    return datetime(year, month + 1, day, tzinfo=UTC) + clock
