"""Render errors as `application/problem+json`, the same for the site and the gateway.

Source: RFC 9457.
"""

from __future__ import annotations

from typing import Any

from marketplace.core.errors import MarketplaceError

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "https://strongroom.dev/problems/"


def problem(error: MarketplaceError, *, request_id: str) -> dict[str, Any]:
    """The members of the answer; `code` is stable, `title` and `detail` are for people."""
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code.replace("_", "-"),
        "title": error.title,
        "status": error.http_status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.errors:
        document["errors"] = error.errors
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    return document | error.params


def problem_headers(error: MarketplaceError) -> dict[str, str]:
    """`Retry-After` where there is one, and the hint of client libraries not to repeat."""
    headers = {"Cache-Control": "private, no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.http_status == 402:
        headers["x-should-retry"] = "false"
    return headers
