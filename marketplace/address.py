"""Where a request comes from."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest

from marketplace.core.address import Address, choose_entry, client_address, parse_address


def address_of(request: HttpRequest) -> str:
    """The client's address, for limits."""
    return client_address(*_sources(request))


def exact_address_of(request: HttpRequest) -> Address | None:
    """The client's address, for lists of networks; None where it cannot be known."""
    return parse_address(choose_entry(*_sources(request)))


def _sources(request: HttpRequest) -> tuple[str, str, int]:
    return (
        request.META.get("REMOTE_ADDR", ""),
        request.META.get("HTTP_X_FORWARDED_FOR", ""),
        settings.TRUSTED_PROXY_COUNT,
    )
