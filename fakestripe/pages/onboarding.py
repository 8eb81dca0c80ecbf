"""The page where a creator gives Stripe the details that it asks for."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fakestripe import errors
from fakestripe.pages import layout
from fakestripe.resources import accounts
from fakestripe.server import Server

Json = dict[str, Any]

_LABELS = {
    "complete": "Give all details",
    "review": "Give all details, to be checked for an hour",
    "incomplete": "Leave out the bank account",
    "wrong": "Give a document that nobody can read",
}


def build_routes(server: Server) -> list[Route]:
    """The routes of the onboarding page of one stand-in."""

    async def show(request: Request) -> Response:
        return _show(server, request.path_params["link_id"])

    async def submit(request: Request) -> Response:
        return await _submit(server, request)

    return [
        Route("/connect/{link_id}", show),
        Route("/connect/{link_id}", submit, methods=["POST"]),
    ]


def _show(server: Server, link_id: str) -> Response:
    server.sweep()
    context = server.context()
    try:
        link, is_usable = accounts.find_link(context, link_id)
        account = context.get(accounts.KIND, link["account"])
    except errors.ApiError:
        return _missing()
    onboarding = link["use_case"]["account_onboarding"]
    if not is_usable:
        return RedirectResponse(onboarding["refresh_url"], 303)
    due = [entry["description"] for entry in account["requirements"]["entries"]]
    facts = [
        ("Account", account.get("display_name", account["id"])),
        ("Country", account["identity"]["country"].upper()),
        *[(name, "asked for") for name in due],
    ]
    address = f"/connect/{link_id}"
    buttons = "".join(
        layout.button(address, label, is_plain=outcome != "complete", outcome=outcome)
        for outcome, label in _LABELS.items()
    )
    body = f"<h1>Get paid</h1>{layout.rows(facts)}{buttons}"
    return layout.page(
        "Get paid", body, leads_to=[onboarding.get("return_url"), onboarding["refresh_url"]]
    )


async def _submit(server: Server, request: Request) -> Response:
    try:
        outcome = (await layout.read_form(request)).get("outcome", "")
    except layout.FormTooLargeError:
        return Response("The form is too large.", 413, media_type="text/plain")
    link_id = request.path_params["link_id"]
    server.sweep()
    try:
        with server.work() as context:
            link, is_usable = accounts.find_link(context, link_id)
            if is_usable and outcome in accounts.OUTCOMES:
                accounts.onboard(context, link_id, outcome)
    except errors.ApiError:
        return _missing()
    onboarding = link["use_case"]["account_onboarding"]
    if not is_usable or outcome not in accounts.OUTCOMES:
        return RedirectResponse(onboarding["refresh_url"], 303)
    return RedirectResponse(onboarding.get("return_url") or onboarding["refresh_url"], 303)


def _missing() -> Response:
    body = "<h1>No such link</h1><p>The address is not complete, or it is an old one.</p>"
    return layout.page("No such link", body, status=404)
