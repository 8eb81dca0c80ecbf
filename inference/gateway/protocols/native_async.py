"""What a caller may say of a prediction that is to run later.

Source: Replicate HTTP API, "Create a prediction"; RFC 7240, `respond-async`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.broker.job import ATTEMPTS_MAX, TIMEOUT_MAX_S, TIMEOUT_S, Priority
from inference.core import calling
from inference.gateway.deadline import read_cancel_after
from inference.gateway.http import Headers
from inference.gateway.jobs import Wish
from marketplace.core.errors import BadRequestError, FieldError, InvalidInputError

MEMBERS = frozenset({"priority", "webhook", "webhook_events_filter"})
EVENTS = ("start", "output", "logs", "completed")
_RETRY = "x-strongroom-retry"
_PRIORITIES: Mapping[str, Priority] = {one.name.lower(): one for one in Priority}


def read_wish(headers: Headers, document: Mapping[str, Any], *, is_development: bool) -> Wish:
    """How a prediction is to be run later.

    Args:
        headers: `Cancel-After`, and `X-Strongroom-Retry: never` to have it tried once only.
        document: The body, whose members are known.
        is_development: Whether webhooks may go to this machine.

    Raises:
        InvalidInputError: A member says nothing that can be kept.
        BadRequestError: A header does.
    """
    name = document.get("priority", "normal")
    if not isinstance(name, str) or name not in _PRIORITIES:
        raise _invalid("/priority", f"Must be one of {', '.join(_PRIORITIES)}.")
    retry = (headers.get(_RETRY) or "always").strip().lower()
    if retry not in ("always", "never"):
        raise BadRequestError("X-Strongroom-Retry is always or never.")
    return Wish(
        priority=_PRIORITIES[name],
        timeout_s=read_cancel_after(headers, TIMEOUT_S, TIMEOUT_MAX_S),
        attempts_max=1 if retry == "never" else ATTEMPTS_MAX,
        webhook_url=_read_webhook(document, is_development),
        webhook_events=_read_events(document),
    )


def refuse_members(document: Mapping[str, Any]) -> None:
    """Refuse what only a prediction that runs later can keep.

    Raises:
        InvalidInputError: There is such a member.
    """
    for name in ("priority", "webhook", "webhook_events_filter"):
        if document.get(name):
            detail = "Is for predictions with the header Prefer: respond-async."
            raise _invalid(f"/{name}", detail)


def _read_webhook(document: Mapping[str, Any], is_development: bool) -> str:
    url = document.get("webhook")
    if not url:
        return ""
    if not isinstance(url, str):
        raise _invalid("/webhook", "Must be an address.")
    try:
        calling.parse(url, is_development=is_development)
    except calling.OutgoingError as error:
        raise _invalid("/webhook", str(error)) from None
    return url


def _read_events(document: Mapping[str, Any]) -> tuple[str, ...]:
    events = document.get("webhook_events_filter")
    if not events:
        return ()
    if not isinstance(events, list) or not all(one in EVENTS for one in events):
        raise _invalid("/webhook_events_filter", f"Must be a list of {', '.join(EVENTS)}.")
    return tuple(dict.fromkeys(events))


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
