"""Errors in Stripe's envelope: `{"error": {"type", "code", "message", "param"}}`.

Source: docs.stripe.com, "Errors" and "Error codes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DOCS = "https://stripe.com/docs/error-codes/"


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error: dict[str, Any] = {"message": message, "type": kind}
        if code is not None:
            error |= {"code": code, "doc_url": _DOCS + code.replace("_", "-")}
        if param is not None:
            error["param"] = param
        self.body: dict[str, Any] = {"error": error | members}


class EffectiveError(ApiError):
    """A refusal that leaves something behind, such as the payment whose card was declined."""


def card_error(message: str, code: str, decline_code: str, **members: Any) -> EffectiveError:
    """A card that the bank refused; `members` are the objects that tell more."""
    if decline_code:
        members["decline_code"] = decline_code
    return EffectiveError(402, "card_error", message, code=code, **members)


def insufficient_balance(message: str) -> ApiError:
    return invalid_request(message, code="balance_insufficient")


def invalid_request(
    message: str, *, code: str | None = None, param: str | None = None, status: int = 400
) -> ApiError:
    return ApiError(status, "invalid_request_error", message, code=code, param=param)


def unknown_parameters(names: Sequence[str]) -> ApiError:
    plural = "s" if len(names) > 1 else ""
    message = f"Received unknown parameter{plural}: {', '.join(names)}"
    return invalid_request(message, code="parameter_unknown", param=names[0])


def missing_parameter(name: str) -> ApiError:
    return invalid_request(f"Missing required param: {name}.", code="parameter_missing", param=name)


def mistyped(name: str, wanted: str, value: Any) -> ApiError:
    if value == "":
        message = (
            f"You passed an empty string for '{name}'. We assume empty values are an attempt to "
            f"unset a field; however '{name}' cannot be unset. You should remove '{name}' from "
            "your request or supply a non-empty value."
        )
        return invalid_request(message, code="parameter_invalid_empty", param=name)
    if wanted == "integer":
        message = f"Invalid integer: {value}"
        return invalid_request(message, code="parameter_invalid_integer", param=name)
    shown = f": {value}" if isinstance(value, str) else ""
    return invalid_request(f"Invalid {wanted}{shown}", param=name)


def not_an_option(name: str, options: Sequence[Any]) -> ApiError:
    known = [str(option) for option in options if option]
    text = f"{', '.join(known[:-1])}, or {known[-1]}" if len(known) > 1 else "".join(known)
    return invalid_request(f"Invalid {name}: must be one of {text}", param=name)


def too_long(name: str, value: str, limit: int) -> ApiError:
    message = f"Invalid string: {value[:10]}...{value[-10:]}; must be at most {limit} characters"
    return invalid_request(message, param=name)


def no_such(kind: str, identifier: str, *, param: str = "id", status: int = 404) -> ApiError:
    """An unknown id: 404 in the address, 400 in a parameter."""
    return invalid_request(
        f"No such {kind}: '{identifier}'", code="resource_missing", param=param, status=status
    )


def not_stood_in(what: str) -> ApiError:
    """Stripe has it and we do not: say so rather than accept and ignore it."""
    return invalid_request(f"fakestripe does not stand in for {what}")


def unauthenticated(key: str | None) -> ApiError:
    if not key:
        message = (
            "You did not provide an API key. You need to provide your API key in the "
            "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
            "YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details."
        )
    else:
        masked = f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "*" * len(key)
        message = f"Invalid API Key provided: {masked}"
    return ApiError(401, "invalid_request_error", message)


def key_mismatch(key: str) -> ApiError:
    return ApiError(
        400,
        "idempotency_error",
        "Keys for idempotent requests can only be used with the same parameters they were first "
        f"used with. Try using a key other than '{key}' if you meant to execute a different "
        "request.",
    )


def key_on_other_endpoint(key: str, *, now: str, first: str) -> ApiError:
    return ApiError(
        400,
        "idempotency_error",
        "Keys for idempotent requests can only be used for the same endpoint they were first used "
        f"for ('{now}' vs '{first}'). Try using a key other than '{key}' if you meant to execute "
        "a different request.",
    )


def key_in_use(key: str) -> ApiError:
    # The type of this answer is not documented; the SDK decides by the status alone.
    return ApiError(
        409,
        "idempotency_error",
        "There is currently another in-progress request using this Idempotent Key (that probably "
        f"means you submitted twice, and the other request is still going through): {key}. Please "
        "try again later.",
        code="idempotency_key_in_use",
    )


def rate_limited() -> ApiError:
    message = "Request rate limit exceeded. You can learn more about rate limits here "
    return ApiError(
        429,
        "invalid_request_error",
        message + "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": "global-rate"},
    )


def lock_timeout() -> ApiError:
    return ApiError(
        429,
        "invalid_request_error",
        "This object cannot be accessed right now because another API request or Stripe process is "
        "currently accessing it. If you see this error intermittently, retry the request.",
        code="lock_timeout",
    )


def internal(status: int = 500, *, should_retry: bool | None = None) -> ApiError:
    headers = {} if should_retry is None else {"Stripe-Should-Retry": str(should_retry).lower()}
    message = "An unknown error occurred. If you see this error repeatedly, contact support."
    return ApiError(status, "api_error", message, headers=headers)
