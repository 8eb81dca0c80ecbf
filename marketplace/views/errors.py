"""The last resort: pages for errors that no view expected; problem+json for programs."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from marketplace.core import errors
from marketplace.core.errors import MarketplaceError
from marketplace.middleware import problem_response, wants_json


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django refused the request before a view saw it."""
    if isinstance(exception, RequestDataTooBig):
        return _answer(request, errors.PayloadTooLargeError())
    return _answer(request, errors.BadRequestError())


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's own `PermissionDenied`."""
    return _answer(request, errors.ForbiddenError())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """No address fits."""
    return _answer(request, errors.NotFoundError())


def server_error(request: HttpRequest) -> HttpResponse:
    """A mistake of ours: says no more than the id under which the log has it."""
    if wants_json(request):
        return problem_response(request, MarketplaceError())
    # Without the base template: whatever failed may be in it.
    context: dict[str, Any] = {"request_id": getattr(request, "request_id", "")}
    return HttpResponse(render_to_string("500.html", context), status=500)


def _answer(request: HttpRequest, error: MarketplaceError) -> HttpResponse:
    if wants_json(request):
        return problem_response(request, error)
    template = {403: "403.html", 404: "404.html"}.get(error.http_status, "problem.html")
    context = {"error": error, "request_id": getattr(request, "request_id", "")}
    return render(request, template, context, status=error.http_status)
