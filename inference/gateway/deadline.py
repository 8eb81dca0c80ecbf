"""How long a caller wants to wait, as the headers of three families of clients say it.

The shortest of them counts, from the arrival of the request. None can reach beyond the
gateway's own limit: what asks for more gets that.

Source: Replicate HTTP API, `Cancel-After` and `Prefer: wait`; RFC 7240.
"""

from __future__ import annotations

import re

from inference.gateway.config import (
    CANCEL_AFTER_MIN_S,
    WAIT_BARE_S,
    WAIT_MARGIN_S,
    WAIT_MAX_S,
)
from inference.gateway.errors import DeadlineInvalidError
from inference.gateway.http import Headers

_CANCEL_AFTER, _TIMEOUT_MS, _PREFER = "cancel-after", "x-request-timeout-ms", "prefer"
_CANCEL_AFTER_FORM = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?", re.ASCII)
_TIMEOUT_FORM = re.compile(r"[0-9]{1,9}")
_WAIT_FORM = re.compile(r"[0-9]{1,2}")


def read_deadline(headers: Headers, limit_s: float) -> float:
    """The time that a request may take, not above the limit.

    Args:
        headers: With `Cancel-After`, `X-Request-Timeout-Ms`, both or neither.
        limit_s: The most that it may be.

    Raises:
        DeadlineInvalidError: A header says nothing that can be kept.
    """
    if _CANCEL_AFTER in headers:
        limit_s = min(limit_s, _read_cancel_after(headers.get(_CANCEL_AFTER) or ""))
    if _TIMEOUT_MS in headers:
        limit_s = min(limit_s, _read_timeout(headers.get(_TIMEOUT_MS) or ""))
    return limit_s


def read_wait(headers: Headers) -> tuple[str, float] | None:
    """The preference to wait, and for how long the answer may be waited for.

    The clients that send it stop reading when the time is over, so that the answer has to
    leave a little earlier. Preferences that are not known here are passed over, as RFC 7240
    has it.

    Raises:
        DeadlineInvalidError: It is not between 1 and 60 seconds.
    """
    if _PREFER not in headers:
        return None
    for preference in (headers.get(_PREFER) or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() != "wait":
            continue
        value = value.strip().strip('"')
        if not value and "=" not in preference:
            return "wait", WAIT_BARE_S
        if not _WAIT_FORM.fullmatch(value) or not 1 <= int(value) <= WAIT_MAX_S:
            raise DeadlineInvalidError(f"Prefer: wait=n takes 1 to {WAIT_MAX_S} seconds.")
        return f"wait={int(value)}", int(value) - WAIT_MARGIN_S
    return None


def is_async_preferred(headers: Headers) -> bool:
    """Whether the caller would rather come back for the answer than wait for it."""
    names = (headers.get(_PREFER) or "").lower().split(",")
    return any(one.partition(";")[0].strip() == "respond-async" for one in names)


def read_cancel_after(headers: Headers, default_s: float, limit_s: float) -> float:
    """Until when a prediction that runs later has to be over, in seconds from now.

    Raises:
        DeadlineInvalidError: The header says nothing that can be kept.
    """
    if _CANCEL_AFTER not in headers:
        return default_s
    return min(limit_s, _read_cancel_after(headers.get(_CANCEL_AFTER) or ""))


def _read_cancel_after(text: str) -> float:
    text = text.strip()
    found = _CANCEL_AFTER_FORM.fullmatch(text)
    if not text or found is None:
        raise DeadlineInvalidError("Cancel-After is a time such as 90s, 5m, 1h30m45s or 30.")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    duration_s = 3600 * hours + 60 * minutes + seconds
    if duration_s < CANCEL_AFTER_MIN_S:
        raise DeadlineInvalidError(f"Cancel-After is at least {CANCEL_AFTER_MIN_S} seconds.")
    return duration_s


def _read_timeout(text: str) -> float:
    text = text.strip()
    if not _TIMEOUT_FORM.fullmatch(text) or not int(text):
        raise DeadlineInvalidError("X-Request-Timeout-Ms is a whole number of milliseconds.")
    return int(text) / 1000
