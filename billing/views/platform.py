"""Who may see the platform's own pages about money."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse

from marketplace.context import actor_of
from marketplace.core.errors import NotFoundError

View = Callable[..., HttpResponse]


def platform_admin_required(view: View) -> View:
    """Platform admins only; for everybody else who signed in there is no such page."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not actor_of(request).is_admin:
            raise NotFoundError
        return view(request, *args, **kwargs)

    guarded: View = login_required(wrapped)
    return guarded
