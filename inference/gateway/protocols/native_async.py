"""What a caller may say of a prediction that is to run later.

Source: Replicate HTTP API, "Create a prediction"; RFC 7240, `respond-async`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.broker.job import ATTEMPTS_MAX, TIMEOUT_MAX_S, TIMEOUT_S, Priority
from inference.gateway.deadline import read_cancel_after
from inference.gateway.http import Headers
from inference.gateway.jobs import Wish
from marketplace.core.errors import BadRequestError, FieldError, InvalidInputError

MEMBERS = frozenset({"priority", "webhook", "webhook_events_filter"})
_RETRY = "x-strongroom-retry"
_PRIORITIES: Mapping[str, Priority] = {one.name.lower(): one for one in Priority}


def read_wish(headers: Headers, document: Mapping[str, Any]) -> Wish:
    """How a prediction is to be run later.

    Args:
        headers: `Cancel-After`, and `X-Strongroom-Retry: never` to have it tried once only.
        document: The body, whose members are known.

    Raises:
        InvalidInputError: A member says nothing that can be kept.
        BadRequestError: A header does.
    """
    _refuse_webhooks(document)
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
    )


def refuse_members(document: Mapping[str, Any]) -> None:
    """Refuse what only a prediction that runs later can keep.

    Raises:
        InvalidInputError: There is such a member.
    """
    _refuse_webhooks(document)
    if "priority" in document:
        raise _invalid("/priority", "Is for predictions with the header Prefer: respond-async.")


def _refuse_webhooks(document: Mapping[str, Any]) -> None:
    # Known to Replicate's clients; silence would be mistaken for a promise.
    for name in ("webhook", "webhook_events_filter"):
        if document.get(name):
            raise _invalid(f"/{name}", "Webhooks are not sent yet.")


def _invalid(pointer: str, detail: str) -> InvalidInputError:
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])
