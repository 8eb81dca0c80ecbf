"""Invoices: a draft for an hour, then final, then paid by the default card or asked again."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.cards import Card
from fakestripe.context import Context, new_id
from fakestripe.resources import (
    balance,
    checkout_lines,
    checks,
    customers,
    intents,
    meters,
    methods,
    prices,
)
from fakestripe.store import Query

Json = dict[str, Any]

FINALIZE_TASK = "invoice.finalize"
COLLECT_TASK = "invoice.collect"

GRACE_S = 3_600
PAYABLE = ("open", "uncollectible")
RETRY_AFTER_S = (3 * 86_400, 5 * 86_400, 7 * 86_400)

_SUBSCRIPTION_OF = "json_extract(body, '$.parent.subscription_details.subscription') = ?"


def draft(context: Context, subscription: Json, start: int, end: int, reason: str) -> Json:
    """The invoice for a period that has just ended; use that arrives late still counts."""
    customer = context.get("customer", subscription["customer"])
    is_taxed = subscription["automatic_tax"]["enabled"]
    invoice_id = new_id("in")
    invoice: Json = {
        "id": invoice_id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Stand-in",
        "account_tax_ids": None,
        "amount_due": 0,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_paid_off_stripe": 0,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": is_taxed,
            "liability": {"type": "self"} if is_taxed else None,
            "provider": "stripe" if is_taxed else None,
            "status": "complete" if is_taxed else None,
        },
        "automatically_finalizes_at": context.now + GRACE_S,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": context.now,
        "currency": subscription["currency"],
        "custom_fields": None,
        "customer": customer["id"],
        "customer_address": None,
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": None,
        "customer_shipping": None,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/invoices/{invoice_id}/lines",
        },
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": context.now + GRACE_S,
        "number": None,
        "on_behalf_of": None,
        "parent": {
            "quote_details": None,
            "subscription_details": {
                "metadata": subscription["metadata"],
                "subscription": subscription["id"],
            },
            "type": "subscription_details",
        },
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": end,
        "period_start": start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": customer["balance"],
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": 0,
        "subtotal_excluding_tax": 0,
        "test_clock": None,
        "total": 0,
        "total_discount_amounts": [],
        "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
    }
    context.store.insert(invoice, {"item": subscription["items"]["data"][0]})
    _count(context, invoice)
    context.store.save(invoice)
    context.after(GRACE_S, FINALIZE_TASK, invoice_id)
    context.emit("invoice.created", invoice)
    return invoice


def retrieve(context: Context, _params: Json, invoice_id: str) -> Json:
    return context.get("invoice", invoice_id)


def list_all(context: Context, params: Json) -> Json:
    query = Query("invoice")
    if "subscription" in params:
        query.where(_SUBSCRIPTION_OF, params["subscription"])
    return lists.list_objects(
        context.store,
        query,
        params,
        url="/v1/invoices",
        equal=("customer", "status", "collection_method"),
        other=("subscription",),
    )


def list_lines(context: Context, params: Json, invoice_id: str) -> Json:
    checks.only(params, frozenset({"limit", "starting_after"}))
    lines: Json = context.get("invoice", invoice_id)["lines"]
    if "starting_after" in params:
        return lines | {"data": []}
    return lines


def finalize(context: Context, params: Json, invoice_id: str) -> Json:
    checks.only(params, frozenset({"auto_advance"}))
    invoice = context.get("invoice", invoice_id)
    if invoice["status"] != "draft":
        raise errors.invalid_request(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice."
        )
    return _finalize(context, invoice)


def pay(context: Context, params: Json, invoice_id: str) -> Json:
    """Charge the default card, or the one that is named, now."""
    checks.only(params, frozenset({"payment_method", "off_session"}))
    invoice = context.get("invoice", invoice_id)
    if invoice["status"] == "paid":
        raise errors.invalid_request("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "draft":
        invoice = _finalize(context, invoice, collects=False)
    if invoice["status"] not in PAYABLE:
        raise errors.invalid_request(f"Invoice is {invoice['status']} and can not be paid.")
    method_id = params.get("payment_method") or _default_method(context, invoice)
    if method_id is None:
        raise errors.invalid_request(
            "Cannot charge a customer that has no active card", code="resource_missing"
        )
    method = methods.require_kept(context, method_id, invoice["customer"])
    intent = _charge(context, invoice, method)
    if intent["status"] != "succeeded":
        raise intents.refusal(context, intent, method)
    return context.get("invoice", invoice_id)


def pay_on_page(context: Context, invoice_id: str, card: Card) -> Json:
    """A person pays an open invoice, or one given up, by a card that is not kept."""
    invoice = context.get("invoice", invoice_id)
    if invoice["status"] not in PAYABLE:
        return invoice
    intent = _intent(context, invoice)
    _after_attempt(context, invoice, intents.pay_on_page(context, intent, card, None))
    return invoice


def mark_uncollectible(context: Context, params: Json, invoice_id: str) -> Json:
    """Give an open invoice up: no card is asked any more, and who owes it can still pay it."""
    checks.only(params, frozenset())
    invoice = context.get("invoice", invoice_id)
    if invoice["status"] != "open":
        raise errors.invalid_request(
            f"You can't mark an invoice as uncollectible that is {invoice['status']}."
        )
    invoice["status_transitions"]["marked_uncollectible_at"] = context.now
    invoice |= {"status": "uncollectible", "next_payment_attempt": None}
    context.store.save(invoice)
    context.emit("invoice.updated", invoice, {"status": "open"})
    context.emit("invoice.marked_uncollectible", invoice)
    return invoice


def void(context: Context, params: Json, invoice_id: str) -> Json:
    checks.only(params, frozenset())
    invoice = context.get("invoice", invoice_id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise errors.invalid_request(f"You can't void an invoice that is {invoice['status']}.")
    invoice["status_transitions"]["voided_at"] = context.now
    invoice |= {"status": "void", "next_payment_attempt": None, "amount_remaining": 0}
    context.store.save(invoice)
    context.emit("invoice.voided", invoice)
    return invoice


def finalize_due(context: Context, invoice_id: str) -> None:
    """The hour of grace is over."""
    invoice = context.store.find(invoice_id, "invoice")
    if invoice is not None and invoice["status"] == "draft":
        _finalize(context, invoice)


def collect_due(context: Context, invoice_id: str) -> None:
    """Ask the bank again."""
    invoice = context.store.find(invoice_id, "invoice")
    is_due = invoice is not None and invoice["next_payment_attempt"] is not None
    if invoice is not None and is_due and invoice["status"] == "open":
        _collect(context, invoice)


def credit(context: Context, invoice: Json, amount: int) -> None:
    """A credit note on an invoice that is still open: less is due."""
    invoice["pre_payment_credit_notes_amount"] += amount
    invoice["amount_due"] -= amount
    invoice["amount_remaining"] -= amount
    if invoice["amount_remaining"] == 0:
        _settle(context, invoice, paid=0)
    else:
        context.store.save(invoice)
        context.emit("invoice.updated", invoice, {})


def _count(context: Context, invoice: Json) -> None:
    """Fill in what was used by what is known now."""
    item = context.store.find_private(invoice["id"])["item"]
    price = item["price"]
    start, end = invoice["period_start"], invoice["period_end"]
    meter_id = price["recurring"]["meter"]
    quantity = meters.usage(context, meter_id, invoice["customer"], start, end)
    amount = prices.charge_for(price, quantity)
    known = invoice["lines"]["data"]
    product = context.get("product", price["product"])
    invoice["lines"]["data"] = [
        {
            "id": known[0]["id"] if known else new_id("il"),
            "object": "line_item",
            "amount": amount,
            "currency": invoice["currency"],
            "description": f"{quantity} {product['name']}",
            "discount_amounts": [],
            "discountable": True,
            "discounts": [],
            "invoice": invoice["id"],
            "livemode": False,
            "metadata": {},
            "parent": {
                "invoice_item_details": None,
                "subscription_item_details": {
                    "invoice_item": None,
                    "proration": False,
                    "proration_details": None,
                    "subscription": item["subscription"],
                    "subscription_item": item["id"],
                },
                "type": "subscription_item_details",
            },
            "period": {"start": start, "end": end},
            "pretax_credit_amounts": [],
            "pricing": {
                "price_details": {"price": price["id"], "product": price["product"]},
                "type": "price_details",
                "unit_amount_decimal": price["unit_amount_decimal"],
            },
            "quantity": quantity,
            "subtotal": amount,
            "taxes": [],
        }
    ]
    _add_up(context, invoice, amount)


def _add_up(context: Context, invoice: Json, subtotal: int) -> None:
    rate_bps = checkout_lines.tax_rate_bps(context)
    is_taxed = invoice["automatic_tax"]["enabled"]
    tax = checkout_lines.tax_cents(subtotal, rate_bps, is_included=False) if is_taxed else 0
    total = subtotal + tax
    invoice |= {
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "total": total,
        "total_excluding_tax": subtotal,
        "total_taxes": [
            {
                "amount": tax,
                "tax_behavior": "exclusive",
                "tax_rate_details": None,
                "taxability_reason": "standard_rated",
                "taxable_amount": subtotal,
                "type": "tax_rate_details",
            }
        ]
        if is_taxed
        else [],
        "amount_due": max(total + invoice["starting_balance"], 0),
    }
    invoice["amount_remaining"] = invoice["amount_due"]


def _finalize(context: Context, invoice: Json, *, collects: bool = True) -> Json:
    customer = context.get("customer", invoice["customer"])
    invoice["starting_balance"] = customer["balance"]
    _count(context, invoice)
    owed = invoice["total"] + customer["balance"]
    # Too little to charge a card for, or credit that is left, waits for the next invoice.
    carried = owed if owed < intents.AMOUNT_CENTS_MIN else 0
    due = 0 if carried or owed <= 0 else owed
    number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    customer["next_invoice_sequence"] += 1
    customer["balance"] = carried
    context.store.save(customer)
    base = f"{context.config.base_url}/invoice/{invoice['id']}"
    invoice["status_transitions"]["finalized_at"] = context.now
    invoice |= {
        "status": "open",
        "number": number,
        "amount_due": due,
        "amount_remaining": due,
        "ending_balance": carried,
        "automatically_finalizes_at": None,
        "effective_at": context.now,
        "hosted_invoice_url": base,
        "invoice_pdf": f"{base}/pdf",
        "next_payment_attempt": context.now if collects else None,
    }
    context.store.save(invoice)
    context.emit("invoice.finalized", invoice)
    if due == 0:
        _settle(context, invoice, paid=0)
    elif collects:
        _collect(context, invoice)
    return invoice


def _collect(context: Context, invoice: Json) -> None:
    method_id = _default_method(context, invoice)
    if method_id is None:
        _fail(context, invoice)
        return
    method = context.get("payment_method", method_id)
    _charge(context, invoice, method)


def _charge(context: Context, invoice: Json, method: Json) -> Json:
    intent = intents.pay_by_kept_card(context, _intent(context, invoice), method)
    _after_attempt(context, invoice, intent)
    return intent


def _intent(context: Context, invoice: Json) -> Json:
    private = context.store.find_private(invoice["id"])
    found = context.store.find(private.get("payment_intent", ""), "payment_intent")
    if found is not None and found["amount"] == invoice["amount_remaining"]:
        return found
    intent = intents.open_intent(
        context,
        amount=invoice["amount_remaining"],
        currency=invoice["currency"],
        details={
            "customer": invoice["customer"],
            "description": f"Invoice {invoice['number']}",
            "payment_method_types": ["card"],
        },
    )
    context.store.save_private(invoice["id"], private | {"payment_intent": intent["id"]})
    return intent


def _after_attempt(context: Context, invoice: Json, intent: Json) -> None:
    if intent["status"] == "succeeded":
        invoice["attempt_count"] += 1
        _note_payment(context, invoice, intent)
        _settle(context, invoice, paid=intent["amount_received"])
    else:
        _fail(context, invoice)


def _note_payment(context: Context, invoice: Json, intent: Json) -> None:
    """Since 2025-03-31.basil this object, and nothing else, says which payment paid what."""
    payment: Json = {
        "id": new_id("inpay"),
        "object": "invoice_payment",
        "amount_paid": intent["amount_received"],
        "amount_requested": intent["amount"],
        "created": context.now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": context.now},
    }
    context.insert(payment)
    context.emit("invoice_payment.paid", payment)


def list_payments(context: Context, params: Json) -> Json:
    query = Query("invoice_payment")
    wanted = params.get("payment", {}).get("payment_intent")
    if wanted is not None:
        query.where("json_extract(body, '$.payment.payment_intent') = ?", wanted)
    return lists.list_objects(
        context.store,
        query,
        params,
        url="/v1/invoice_payments",
        equal=("invoice", "status"),
        other=("payment",),
    )


def _settle(context: Context, invoice: Json, *, paid: int) -> None:
    invoice["status_transitions"]["paid_at"] = context.now
    invoice |= {
        "status": "paid",
        "attempted": True,
        "amount_paid": paid,
        "amount_remaining": 0,
        "next_payment_attempt": None,
    }
    context.store.save(invoice)
    context.emit("invoice.paid", invoice)
    context.emit("invoice.payment_succeeded", invoice)
    _tell_subscription(context, invoice, "past_due", "active")


def _fail(context: Context, invoice: Json) -> None:
    attempt = invoice["attempt_count"]
    is_asked_again = invoice["status"] == "open" and attempt < len(RETRY_AFTER_S)
    wait_s = RETRY_AFTER_S[attempt] if is_asked_again else None
    invoice |= {
        "attempted": True,
        "attempt_count": attempt + 1,
        "next_payment_attempt": None if wait_s is None else context.now + wait_s,
    }
    context.store.save(invoice)
    if wait_s is not None:
        context.after(wait_s, COLLECT_TASK, invoice["id"])
    context.emit("invoice.payment_failed", invoice)
    _tell_subscription(context, invoice, "active", "past_due")


def _tell_subscription(context: Context, invoice: Json, before: str, after: str) -> None:
    subscription_id = invoice["parent"]["subscription_details"]["subscription"]
    subscription = context.store.find(subscription_id, "subscription")
    if subscription is not None and subscription["status"] == before:
        subscription["status"] = after
        context.store.save(subscription)
        context.emit("customer.subscription.updated", subscription, {"status": before})


def _default_method(context: Context, invoice: Json) -> str | None:
    subscription_id = invoice["parent"]["subscription_details"]["subscription"]
    subscription = context.store.find(subscription_id, "subscription") or {}
    customer = customers.retrieve(context, {}, invoice["customer"])
    for method_id in (
        invoice["default_payment_method"],
        subscription.get("default_payment_method"),
        customer["invoice_settings"]["default_payment_method"],
    ):
        method = context.store.find(method_id or "", "payment_method")
        if method is not None and method["customer"] == invoice["customer"]:
            return str(method["id"])
    return None


def update(context: Context, params: Json, invoice_id: str) -> Json:
    invoice = context.get("invoice", invoice_id)
    return balance.metadata_only(context, params, invoice, "invoice.updated")
