"""Credit notes: less is due of an open invoice, or credit for the next after a paid one."""

from __future__ import annotations

from typing import Any

from fakestripe import errors, lists
from fakestripe.context import Context, new_id
from fakestripe.resources import checks, invoices
from fakestripe.store import Query

Json = dict[str, Any]

_PARAMS = frozenset({"invoice", "amount", "credit_amount", "memo", "metadata", "reason"})


def create(context: Context, params: Json) -> Json:
    checks.only(params, _PARAMS)
    invoice = context.get_named("invoice", params["invoice"], "invoice")
    amount = params.get("amount", 0)
    if invoice["status"] not in ("open", "paid"):
        raise errors.invalid_request(
            "Credit notes can only be created for open or paid invoices.", param="invoice"
        )
    credited = _list(context, invoice["id"])
    rest = invoice["total"] - sum(note["amount"] for note in credited)
    if invoice["status"] == "open":
        rest = min(rest, invoice["amount_remaining"])
    if not 1 <= amount <= rest:
        raise errors.invalid_request(
            f"The credit note amount must be positive and at most {rest}.", param="amount"
        )
    is_after = invoice["status"] == "paid"
    if is_after and params.get("credit_amount") != amount:
        raise errors.invalid_request(
            "The sum of refund_amount, credit_amount and out_of_band_amount must equal the credit "
            "note amount for a paid invoice.",
            param="credit_amount",
        )
    note = _new_note(context, invoice, params, len(credited), is_after=is_after)
    context.insert(note)
    if is_after:
        _give_credit(context, invoice, amount)
    else:
        invoices.credit(context, invoice, amount)
    context.emit("credit_note.created", note)
    return note


def retrieve(context: Context, _params: Json, note_id: str) -> Json:
    return context.get("credit_note", note_id)


def list_all(context: Context, params: Json) -> Json:
    return lists.list_objects(
        context.store,
        Query("credit_note"),
        params,
        url="/v1/credit_notes",
        equal=("customer", "invoice"),
    )


def _give_credit(context: Context, invoice: Json, amount: int) -> None:
    customer = context.get("customer", invoice["customer"])
    customer["balance"] -= amount
    context.store.save(customer)
    invoice["post_payment_credit_notes_amount"] += amount
    context.store.save(invoice)
    context.emit("invoice.updated", invoice, {})


def _list(context: Context, invoice_id: str) -> list[Json]:
    return context.store.list_all(Query("credit_note").equals("invoice", invoice_id))


def _new_note(
    context: Context, invoice: Json, params: Json, number: int, *, is_after: bool
) -> Json:
    note_id, amount = new_id("cn"), params["amount"]
    line: Json = {
        "id": new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": params.get("memo"),
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "pretax_credit_amounts": [],
        "quantity": 1,
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }
    return {
        "id": note_id,
        "object": "credit_note",
        "amount": amount,
        "amount_shipping": 0,
        "created": context.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": context.now,
        "invoice": invoice["id"],
        "lines": {
            "object": "list",
            "data": [line],
            "has_more": False,
            "url": f"/v1/credit_notes/{note_id}/lines",
        },
        "livemode": False,
        "memo": params.get("memo"),
        "metadata": checks.metadata(params.get("metadata")),
        "number": f"{invoice['number']}-CN-{number + 1:02d}",
        "out_of_band_amount": None,
        "pdf": f"{context.config.base_url}/invoice/{invoice['id']}/pdf",
        "post_payment_amount": amount if is_after else 0,
        "pre_payment_amount": 0 if is_after else amount,
        "pretax_credit_amounts": [],
        "reason": params.get("reason"),
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "post_payment" if is_after else "pre_payment",
        "voided_at": None,
    }
