"""The page of a Checkout Session: what is bought, a card number, a button."""

from __future__ import annotations

from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fakestripe import cards, errors, views
from fakestripe.pages import layout
from fakestripe.resources import checkout
from fakestripe.server import Server

Json = dict[str, Any]


def build_routes(server: Server) -> list[Route]:
    """The routes of the payment page of one stand-in."""

    async def show(request: Request) -> Response:
        return _show(server, request.path_params["session_id"])

    async def pay(request: Request) -> Response:
        return await _pay(server, request)

    async def back(request: Request) -> Response:
        return RedirectResponse(f"/checkout/{request.path_params['session_id']}", 303)

    return [
        Route("/checkout/{session_id}", show),
        Route("/checkout/{session_id}/pay", pay, methods=["POST"]),
        Route("/checkout/{session_id}/pay", back),
    ]


def _show(server: Server, session_id: str) -> Response:
    server.sweep()
    try:
        with server.work() as context:
            session = checkout.priced(context, checkout.retrieve(context, {}, session_id))
    except errors.ApiError:
        return _missing()
    if session["status"] != "open":
        return _closed(session)
    lines = views.line_items(context, session_id)["data"]
    return _open(session, lines, refusal=checkout.last_refusal(context, session))


async def _pay(server: Server, request: Request) -> Response:
    try:
        form = await layout.read_form(request)
    except layout.FormTooLargeError:
        return Response("The form is too large.", 413, media_type="text/plain")
    session_id = request.path_params["session_id"]
    card_number = form.get("card_number", "")
    answer = form.get("authentication", "")
    server.sweep()
    try:
        with server.work() as context:
            if not answer and checkout.needs_authentication(context, session_id, card_number):
                return _confirm(checkout.retrieve(context, {}, session_id), card_number)
            session = checkout.pay(
                context, session_id, card_number, is_authenticated=answer != "fail"
            )
    except errors.ApiError:
        return _missing()
    if session["status"] != "complete":
        # Shown at once and not by a redirect: the status says that nothing was paid.
        return _show(server, session_id)
    target = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id)
    return RedirectResponse(target, 303)


def _open(session: Json, lines: list[Json], *, refusal: str) -> Response:
    """The page of a session that can be paid; 402 when the last card was refused."""
    if session["mode"] == "setup":
        heading, label = "<h1>Save a card</h1><p>Nothing is charged now.</p>", "Save card"
    else:
        amount = layout.money(session["amount_total"], session["currency"])
        heading = f"""<h1>Amount due</h1>
<p class="amount">{amount}</p>
{_lines(session, lines)}"""
        label = f"Pay {amount}"
    error = f'<p class="error" role="alert">{escape(refusal)}</p>' if refusal else ""
    cancel = ""
    if session["cancel_url"]:
        cancel = f'<a class="cancel" href="{escape(session["cancel_url"])}">Cancel</a>'
    body = f"""
{heading}
{error}
<form method="post" action="/checkout/{escape(session["id"])}/pay">
<label for="card_number">Card number</label>
<input id="card_number" name="card_number" value="{_grouped(cards.SUCCESS)}" inputmode="numeric"
 autocomplete="off" maxlength="40" required aria-describedby="hint">
<p class="hint" id="hint">{_grouped(cards.DECLINE)} is always declined.</p>
<button type="submit">{label}</button>
</form>
{cancel}"""
    return layout.page(
        label, body, status=402 if refusal else 200, leads_to=[session["success_url"]]
    )


def _lines(session: Json, lines: list[Json]) -> str:
    pairs = [
        (_named(line), layout.money(line["amount_subtotal"], line["currency"])) for line in lines
    ]
    if session["automatic_tax"]["enabled"]:
        tax = session["total_details"]["amount_tax"]
        pairs.append(("Tax", layout.money(tax, session["currency"])))
    return layout.rows(pairs)


def _confirm(session: Json, card_number: str) -> Response:
    """The bank's question to whoever stands before the page."""
    address = f"/checkout/{session['id']}/pay"
    body = f"""<h1>Confirm it is you</h1><p>The bank behind this card asks you to confirm.</p>
{layout.button(address, "Complete", card_number=card_number, authentication="complete")}
{layout.button(address, "Fail", is_plain=True, card_number=card_number, authentication="fail")}"""
    return layout.page("Confirm it is you", body, leads_to=[session["success_url"]])


def _closed(session: Json) -> Response:
    """The page of a session that is over."""
    is_setup = session["mode"] == "setup"
    if session["status"] == "complete":
        title = "Card saved" if is_setup else "Already paid"
        text = "This checkout is complete. Nothing more will be charged."
        link = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
    else:
        title, text = "Checkout expired", "This checkout has expired. Nothing was charged."
        link = session["cancel_url"]
    back = f'<a class="cancel" href="{escape(link)}">Back</a>' if link else ""
    status = 200 if session["status"] == "complete" else 410
    body = f"<h1>{title}</h1><p>{text}</p>{back}"
    return layout.page(title, body, status=status)


def _missing() -> Response:
    """The page of a session that never was."""
    body = "<h1>No such checkout</h1><p>The address is not complete, or it is an old one.</p>"
    return layout.page("No such checkout", body, status=404)


def _named(line: Json) -> str:
    times = f" \N{MULTIPLICATION SIGN} {line['quantity']}" if line["quantity"] != 1 else ""
    return f"{line['description']}{times}"


def _grouped(number: str) -> str:
    return " ".join(number[start : start + 4] for start in range(0, len(number), 4))
