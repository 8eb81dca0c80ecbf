"""The billing portal: a customer's cards and invoices."""

from __future__ import annotations

from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fakestripe import cards, errors
from fakestripe.context import Context
from fakestripe.pages import layout
from fakestripe.resources import customers, methods, portal
from fakestripe.server import Server
from fakestripe.store import Query

Json = dict[str, Any]


def build_routes(server: Server) -> list[Route]:
    """The routes of the billing portal of one stand-in."""

    async def show(request: Request) -> Response:
        return _show(server, request.path_params["session_id"])

    async def change(request: Request) -> Response:
        return await _change(server, request)

    return [
        Route("/portal/{session_id}", show),
        Route("/portal/{session_id}", change, methods=["POST"]),
    ]


def _show(server: Server, session_id: str, *, refusal: str = "") -> Response:
    server.sweep()
    context = server.context()
    try:
        session = portal.find_open(context, session_id)
    except errors.ApiError:
        return _missing()
    customer = context.get("customer", session["customer"])
    address = f"/portal/{session_id}"
    error = f'<p class="error" role="alert">{escape(refusal)}</p>' if refusal else ""
    back = ""
    if session["return_url"]:
        back = f'<a class="cancel" href="{escape(session["return_url"])}">Back</a>'
    body = f"""<h1>Billing</h1>{error}
{_cards(context, customer, address)}
<form method="post" action="{address}">
<label for="card_number">Add a card</label>
<input id="card_number" name="card_number" value="{cards.SUCCESS}" inputmode="numeric"
 autocomplete="off" maxlength="40" required>
<button type="submit">Add card</button></form>
{_invoices(context, customer)}{back}"""
    return layout.page("Billing", body, status=402 if refusal else 200)


async def _change(server: Server, request: Request) -> Response:
    try:
        form = await layout.read_form(request)
    except layout.FormTooLargeError:
        return Response("The form is too large.", 413, media_type="text/plain")
    session_id = request.path_params["session_id"]
    server.sweep()
    try:
        with server.work() as context:
            session = portal.find_open(context, session_id)
            refusal = _do(context, session["customer"], form)
    except errors.ApiError:
        return _missing()
    if refusal:
        return _show(server, session_id, refusal=refusal)
    return RedirectResponse(f"/portal/{session_id}", 303)


def _do(context: Context, customer_id: str, form: dict[str, str]) -> str:
    """Add, prefer or remove a card; what to tell the customer if it was refused."""
    method_id = form.get("method", "")
    if "card_number" in form:
        card = cards.read(form["card_number"])
        if card.code:
            return card.message
        method = methods.create_card(context, card, None)
        methods.keep(context, method, customer_id, is_authenticated=True)
        method_id = method["id"]
    method = methods.require_kept(context, method_id, customer_id)
    if form.get("wish") == "remove":
        methods.detach(context, {}, method_id)
    else:
        customers.set_default_method(context, customer_id, method_id)
    return ""


def _cards(context: Context, customer: Json, address: str) -> str:
    default = customer["invoice_settings"]["default_payment_method"]
    parts = []
    for method in context.store.list_all(
        Query("payment_method").equals("customer", customer["id"])
    ):
        card = method["card"]
        name = f"{card['brand']} ending in {card['last4']}"
        is_default = method["id"] == default
        parts.append(layout.rows([(name, "default" if is_default else "")]))
        if not is_default:
            parts.append(
                layout.button(
                    address, "Make default", is_plain=True, method=method["id"], wish="prefer"
                )
            )
        parts.append(
            layout.button(address, "Remove", is_plain=True, method=method["id"], wish="remove")
        )
    return "".join(parts)


def _invoices(context: Context, customer: Json) -> str:
    found = context.store.list_all(Query("invoice").equals("customer", customer["id"]))
    items = "".join(
        f'<div><dt><a href="{escape(invoice["hosted_invoice_url"])}">'
        f"{escape(invoice['number'])}</a></dt><dd>{escape(invoice['status'])}</dd></div>"
        for invoice in found
        if invoice["hosted_invoice_url"]
    )
    return f"<dl>{items}</dl>" if items else "<p>No invoices yet.</p>"


def _missing() -> Response:
    body = "<h1>This session is over</h1><p>Go back and open the portal once more.</p>"
    return layout.page("This session is over", body, status=404)
