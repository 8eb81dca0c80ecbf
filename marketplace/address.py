"""Where a request comes from."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest

from marketplace.core.address import client_address


def address_of(request: HttpRequest) -> str:
    """The client's address, for limits."""
    return client_address(
        request.META.get("REMOTE_ADDR", ""),
        request.META.get("HTTP_X_FORWARDED_FOR", ""),
        settings.TRUSTED_PROXY_COUNT,
    )
