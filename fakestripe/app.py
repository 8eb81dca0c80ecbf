"""The web application: health, the payment page, the control plane, and Stripe's API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from fakestripe import control, errors, page, views
from fakestripe.config import Config
from fakestripe.contract import Contract
from fakestripe.resources import checkout
from fakestripe.server import Server

FORM_SIZE_BYTES_MAX = 4_096

_METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH"]


def build_app(config: Config, contract: Contract) -> Starlette:
    """A stand-in as an ASGI application; its state opens now and closes at shutdown."""
    server = Server(config, contract)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "api_version": contract.api_version})

    async def show_page(request: Request) -> Response:
        return _show_page(server, request.path_params["session_id"])

    async def pay(request: Request) -> Response:
        return await _pay(server, request)

    async def back_to_page(request: Request) -> Response:
        return RedirectResponse(f"/checkout/{request.path_params['session_id']}", 303)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with server.running():
            yield

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/checkout/{session_id}", show_page),
            Route("/checkout/{session_id}/pay", pay, methods=["POST"]),
            Route("/checkout/{session_id}/pay", back_to_page),
            *control.build_routes(server),
            Route("/{path:path}", server.answer_api, methods=_METHODS),
        ],
        exception_handlers={Exception: _answer_mistake},
        lifespan=lifespan,
    )


def _answer_mistake(_request: Request, _error: Exception) -> Response:
    # Ours, not the caller's; starlette raises it again, so that the log has the trace.
    failure = errors.internal(should_retry=False)
    return JSONResponse(failure.body, failure.status, failure.headers)


def _show_page(server: Server, session_id: str) -> Response:
    server.sweep()
    context = server.context()
    try:
        session = checkout.retrieve(context, {}, session_id)
    except errors.ApiError:
        return page.render_missing()
    if session["status"] != "open":
        return page.render_closed(session)
    lines = views.line_items(context, session_id)["data"]
    return page.render_open(session, lines, refusal=checkout.last_refusal(context, session))


async def _pay(server: Server, request: Request) -> Response:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_SIZE_BYTES_MAX:
            return Response("The form is too large.", 413, media_type="text/plain")
    card_number = parse_qs(bytes(body)).get(b"card_number", [b""])[0].decode(errors="replace")
    session_id = request.path_params["session_id"]
    server.sweep()
    try:
        with server.work() as context:
            session = checkout.pay(context, session_id, card_number)
    except errors.ApiError:
        return page.render_missing()
    if session["status"] != "complete":
        # Shown at once and not by a redirect: the status says that nothing was paid.
        return _show_page(server, session_id)
    target = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id)
    return RedirectResponse(target, 303)
