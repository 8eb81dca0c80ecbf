"""The page of an invoice: what is due, and a card to pay it by."""

from __future__ import annotations

from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fakestripe import cards, errors
from fakestripe.pages import layout
from fakestripe.resources import invoices
from fakestripe.server import Server

Json = dict[str, Any]


def build_routes(server: Server) -> list[Route]:
    """The routes of the invoice page of one stand-in."""

    async def show(request: Request) -> Response:
        return _show(server, request.path_params["invoice_id"])

    async def pay(request: Request) -> Response:
        return await _pay(server, request)

    return [
        Route("/invoice/{invoice_id}", show),
        Route("/invoice/{invoice_id}/pdf", show),
        Route("/invoice/{invoice_id}", pay, methods=["POST"]),
    ]


def _show(server: Server, invoice_id: str, *, refusal: str = "") -> Response:
    server.sweep()
    try:
        invoice = server.context().get("invoice", invoice_id)
    except errors.ApiError:
        return _missing()
    if invoice["status"] == "draft":
        return _missing()
    amount = layout.money(invoice["amount_remaining"], invoice["currency"])
    pairs = [
        (line["description"], layout.money(line["amount"], line["currency"]))
        for line in invoice["lines"]["data"]
    ]
    pairs.append(("Total", layout.money(invoice["total"], invoice["currency"])))
    pairs.append(("Status", invoice["status"]))
    error = f'<p class="error" role="alert">{escape(refusal)}</p>' if refusal else ""
    form = ""
    if invoice["status"] in invoices.PAYABLE:
        form = f"""<form method="post" action="/invoice/{escape(invoice_id)}">
<label for="card_number">Card number</label>
<input id="card_number" name="card_number" value="{cards.SUCCESS}" inputmode="numeric"
 autocomplete="off" maxlength="40" required>
<button type="submit">Pay {amount}</button></form>"""
    body = f"""<h1>Invoice {escape(invoice["number"])}</h1>
<p class="amount">{amount}</p>{layout.rows(pairs)}{error}{form}"""
    return layout.page(f"Invoice {invoice['number']}", body, status=402 if refusal else 200)


async def _pay(server: Server, request: Request) -> Response:
    try:
        form = await layout.read_form(request)
    except layout.FormTooLargeError:
        return Response("The form is too large.", 413, media_type="text/plain")
    invoice_id = request.path_params["invoice_id"]
    card = cards.read(form.get("card_number", ""))
    server.sweep()
    try:
        with server.work() as context:
            invoice = invoices.pay_on_page(context, invoice_id, card)
    except errors.ApiError:
        return _missing()
    if invoice["status"] in invoices.PAYABLE:
        return _show(server, invoice_id, refusal=card.message)
    return RedirectResponse(f"/invoice/{invoice_id}", 303)


def _missing() -> Response:
    body = "<h1>No such invoice</h1><p>The address is not complete, or it is a draft.</p>"
    return layout.page("No such invoice", body, status=404)
