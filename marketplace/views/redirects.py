"""Where to send people next: never off the site."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.utils.http import url_has_allowed_host_and_scheme


def own_url(request: HttpRequest, target: str | None, default: str = "marketplace:home") -> str:
    """The target if it is an address of ours, else the default's."""
    is_own = url_has_allowed_host_and_scheme(
        target or "", allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if target and is_own else resolve_url(default)


def next_of(request: HttpRequest, default: str = "marketplace:home") -> str:
    """Where the person wanted to go."""
    return own_url(request, request.POST.get("next") or request.GET.get("next"), default)


def page_of_swap(request: HttpRequest) -> str:
    """The page that an htmx request came from, without its host."""
    parts = urlsplit(request.headers.get("HX-Current-URL", ""))
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return own_url(request, path)
