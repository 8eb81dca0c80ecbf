"""The errors that are part of the API: each has a stable code and a status.

Three kinds of failure are kept apart. Asserts are mistakes of ours and crash. A
`MarketplaceError` is expected: it reaches the caller with its code. Errors of libraries
are caught where they arise and turned into one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict


class FieldError(TypedDict):
    """One fault in the request: a JSON pointer to the place, and what is wrong there."""

    pointer: str
    detail: str


class MarketplaceError(Exception):
    """Something the caller may see. Subclasses set the code; callers add the detail.

    Args:
        detail: One sentence for people; never a secret, never a stack trace.
        errors: Faults by field.
        retry_after_s: When the same call may succeed, for the `Retry-After` header.
        **params: Further machine-readable members of the answer.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    title: ClassVar[str] = "Something went wrong on our side."

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        **params: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        self.params = params


class InvalidInputError(MarketplaceError):
    code = "validation"
    http_status = 422
    title = "The request is not valid."


class BadRequestError(MarketplaceError):
    code = "bad_request"
    http_status = 400
    title = "The request could not be read."


class AuthenticationError(MarketplaceError):
    code = "unauthenticated"
    http_status = 401
    title = "A valid key is required."


class ForbiddenError(MarketplaceError):
    code = "forbidden"
    http_status = 403
    title = "This is not allowed."


class NetworkNotAllowedError(ForbiddenError):
    """A key that works from some networks only, used from elsewhere."""

    code = "network_not_allowed"
    title = "The key does not work from where it is used."


class AccountFrozenError(ForbiddenError):
    """Of an account whose payments are in doubt; its own models go on serving others."""

    code = "account_frozen"
    title = "The account is frozen while a payment of it is examined."


class NotFoundError(MarketplaceError):
    code = "not_found"
    http_status = 404
    title = "There is no such thing, or you may not see it."


class MethodNotAllowedError(MarketplaceError):
    code = "method_not_allowed"
    http_status = 405
    title = "This address does not answer to that method."


class ConflictError(MarketplaceError):
    code = "conflict"
    http_status = 409
    title = "This does not fit the present state."


class GoneError(MarketplaceError):
    code = "gone"
    http_status = 410
    title = "This existed and is gone."


class PayloadTooLargeError(MarketplaceError):
    code = "payload_too_large"
    http_status = 413
    title = "The request is too large."


class LimitExceededError(MarketplaceError):
    code = "limit_exceeded"
    http_status = 429
    retryable = True
    title = "Too many requests."


class InsufficientCreditError(MarketplaceError):
    code = "insufficient_credit"
    http_status = 402
    title = "The wallet does not hold enough credit."


class UnavailableError(MarketplaceError):
    code = "unavailable"
    http_status = 503
    retryable = True
    title = "This is not available right now."


class DeadlineError(MarketplaceError):
    code = "deadline"
    http_status = 504
    retryable = True
    title = "The work did not finish in time. It was not charged."
