"""Calls to addresses that tenants have named, by the rules of where this platform runs."""

from __future__ import annotations

import ipaddress

from django.conf import settings

from inference.core import calling
from inference.core.calling import URL_LENGTH_MAX, OutgoingError, Reply, Target
from marketplace.core.errors import InvalidInputError

__all__ = [
    "CALL_LIMIT_S",
    "URL_LENGTH_MAX",
    "OutgoingError",
    "Reply",
    "check_target",
    "check_url",
    "is_allowed",
    "post",
    "send",
]

# Connecting, sending and the answer together.
CALL_LIMIT_S = 10.0


def check_url(url: str, *, pointer: str = "/target") -> Target:
    """The parts of an address that may be called.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return calling.parse(url, is_development=settings.DEVELOPMENT)
    except OutgoingError as error:
        raise InvalidInputError(errors=[{"pointer": pointer, "detail": str(error)}]) from None


def check_target(url: str, *, pointer: str) -> None:
    """The same, and its name leads to public addresses today.

    Raises:
        InvalidInputError: It is no address, or leads elsewhere or nowhere.
    """
    target = check_url(url, pointer=pointer)
    try:
        calling.resolve(target, is_development=settings.DEVELOPMENT)
    except OutgoingError as error:
        raise InvalidInputError(errors=[{"pointer": pointer, "detail": str(error)}]) from None


def is_allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a tenant may have us call it."""
    return calling.is_allowed(address, is_development=settings.DEVELOPMENT)


def send(url: str, *, body: bytes, headers: dict[str, str], limit_s: float) -> Reply:
    """Send JSON; what was answered, whatever its status.

    Raises:
        OutgoingError: It could not be sent, or nothing was answered in time.
    """
    return calling.post(
        url, body=body, headers=headers, limit_s=limit_s, is_development=settings.DEVELOPMENT
    )


def post(url: str, *, body: bytes, headers: dict[str, str]) -> None:
    """Send JSON.

    Raises:
        OutgoingError: It could not be sent, or the answer was not 2xx.
    """
    status = send(url, body=body, headers=headers, limit_s=CALL_LIMIT_S).status
    if not 200 <= status < 300:
        raise OutgoingError(f"The server answered {status}.")
