"""The bell in the header."""

from __future__ import annotations

from typing import Any

from django import template
from django.http import HttpRequest

from marketplace.context import count_unread_of
from marketplace.core import limits
from marketplace.models import User

register = template.Library()


@register.inclusion_tag("components/bell.html", takes_context=True)
def bell(context: template.Context) -> dict[str, Any]:
    """How much is unread; nothing is counted where a page is made without a person."""
    request: HttpRequest | None = context.get("request")
    is_person = request is not None and isinstance(request.user, User)
    return {"unread": count_unread_of(request) if is_person and request else 0}


@register.filter
def bell_count(unread: int) -> str:
    """A count that fits into the bell."""
    return str(unread) if unread <= limits.BELL_COUNT_MAX else f"{limits.BELL_COUNT_MAX}+"
