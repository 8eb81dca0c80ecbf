"""Errors of the management API, all as problem+json with a stable code."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from marketplace.core import errors
from marketplace.core.errors import FieldError, MarketplaceError
from marketplace.middleware import problem_response


def handle_exception(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Django REST framework's hook; None lets an unexpected error become a 500."""
    known = translate(error)
    if known is None:
        return None
    return problem_response(context["request"]._request, known)  # noqa: SLF001


def translate(error: Exception) -> MarketplaceError | None:
    """The error of ours that says the same as one of Django's or the framework's."""
    match error:
        case MarketplaceError():
            return error
        case exceptions.ValidationError():
            return errors.InvalidInputError(errors=list(_fields(error.detail, "")))
        case ValidationError():
            return errors.InvalidInputError(" ".join(error.messages))
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return errors.AuthenticationError(str(error.detail))
        case exceptions.PermissionDenied() | PermissionDenied():
            return errors.ForbiddenError()
        case exceptions.NotFound() | Http404():
            return errors.NotFoundError()
        case exceptions.MethodNotAllowed():
            return errors.MethodNotAllowedError()
        case exceptions.ParseError() | exceptions.UnsupportedMediaType():
            return errors.BadRequestError(str(error.detail))
        case exceptions.Throttled():
            return errors.LimitExceededError(retry_after_s=int(getattr(error, "wait", None) or 1))
    return None


def _fields(detail: Any, pointer: str) -> list[FieldError]:
    if isinstance(detail, dict):
        return [
            fault
            for name, inner in detail.items()
            for fault in _fields(
                inner, pointer if name == "non_field_errors" else f"{pointer}/{name}"
            )
        ]
    if isinstance(detail, list) and any(isinstance(inner, dict | list) for inner in detail):
        return [
            fault
            for index, inner in enumerate(detail)
            for fault in _fields(inner, f"{pointer}/{index}")
        ]
    texts = detail if isinstance(detail, list) else [detail]
    return [{"pointer": pointer or "/", "detail": str(text)} for text in texts]
