"""Show a part of a page by itself or inside of another page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


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
