"""The web application: health, the pages, the control plane, and Stripe's API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fakestripe import control, errors
from fakestripe.config import Config
from fakestripe.contract import Contract
from fakestripe.pages import checkout, invoice, onboarding, portal
from fakestripe.server import Server

_METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH"]


def build_app(config: Config, contract: Contract) -> Starlette:
    """A stand-in as an ASGI application; its state opens now and closes at shutdown."""
    server = Server(config, contract)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "api_version": contract.api_version})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with server.running():
            yield

    return Starlette(
        routes=[
            Route("/health", health),
            *checkout.build_routes(server),
            *onboarding.build_routes(server),
            *invoice.build_routes(server),
            *portal.build_routes(server),
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
