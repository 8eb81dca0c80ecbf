"""What stands on top of every page: incidents, announcements, whom an admin sees the site as."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import template
from django.http import HttpRequest

from marketplace.context import actor_of, current_account
from marketplace.core import limits
from marketplace.see_as import find_impersonation
from marketplace.selectors.announcement import list_shown
from marketplace.selectors.incident import list_on_banner

register = template.Library()

COOKIE = "dismissed"


def read_dismissed(request: HttpRequest) -> list[str]:
    """Ids of announcements that this browser has put away; what is none is passed over."""
    found = []
    for text in request.COOKIES.get(COOKIE, "").split(".")[-limits.DISMISSED_MAX :]:
        try:
            found.append(str(UUID(text)))
        except ValueError:
            continue
    return found


@register.inclusion_tag("components/banners.html", takes_context=True)
def banners(context: template.Context) -> dict[str, Any]:
    """Nothing where a page is made without a request."""
    request = context.get("request")
    if request is None or not hasattr(request, "user"):
        return {}
    account = current_account(request)
    return {
        "closing": account if account is not None and account.closes_at else None,
        "impersonation": find_impersonation(request),
        "incidents": list_on_banner(),
        "announcements": list_shown(actor_of(request), dismissed=read_dismissed(request)),
        "csrf_token": context.get("csrf_token"),
        "request": request,
    }
