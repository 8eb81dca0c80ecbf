"""Show a part of a page by itself or inside of another page."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render, resolve_url
from django_htmx.http import HttpResponseClientRedirect

View = Callable[..., HttpResponse]


def render_panel(
    request: HttpRequest, name: str, context: dict[str, Any], *, title: str, status: int = 200
) -> HttpResponse:
    """The fragment for htmx; for everybody else a page with the fragment in it.

    So each panel has an address that can be opened, linked and used without scripts.
    """
    template = f"inference/panels/{name}.html"
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, template, context, status=status)
    page = context | {"panel_template": template, "panel_title": title}
    return render(request, "inference/panel_page.html", page, status=status)


def ask_to_sign_in(request: HttpRequest) -> HttpResponse:
    """Lead to the sign-in page and back to the page that the panel is part of.

    A plain redirect would be followed by htmx, which would put the sign-in page into the panel.
    """
    if not request.htmx:  # type: ignore[attr-defined]
        return redirect_to_login(request.get_full_path())
    page = request.htmx.current_url_abs_path or request.get_full_path()  # type: ignore[attr-defined]
    query = urlencode({"next": page})
    return HttpResponseClientRedirect(f"{resolve_url(settings.LOGIN_URL)}?{query}")


def panel_login_required(view: View) -> View:
    """Only for people who have signed in; also when their session ends while a panel polls."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return ask_to_sign_in(request)
        return view(request, *args, **kwargs)

    return guarded
