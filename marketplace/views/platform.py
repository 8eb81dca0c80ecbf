"""Who may see the platform's own pages, and the page between a click and a deed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError, NotFoundError
from marketplace.forms.platform import DeedForm
from marketplace.forms.problem import add_problem

View = Callable[..., HttpResponseBase]

PAGE_SIZE = 50


def platform_admin_required(view: View) -> View:
    """Platform admins only; for everybody else who signed in there is no such page."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not actor_of(request).is_admin:
            raise NotFoundError
        return view(request, *args, **kwargs)

    guarded: View = login_required(wrapped)
    return guarded


def ask_or_do(
    request: HttpRequest,
    *,
    do: Callable[[str], HttpResponse],
    title: str,
    button: str,
    back: str,
    consequences: Sequence[str] = (),
    lede: str = "",
    form: DeedForm | None = None,
    is_harm: bool = True,
) -> HttpResponse:
    """Say what will happen and ask for a reason; with one, do it.

    Args:
        request: GET asks, POST with a reason does it.
        do: Does it for a reason and answers; what it raises is told in the form.
        title: The page's heading.
        button: The words on the button that does it.
        back: Where who changes its mind goes.
        consequences: What will happen, in sentences with counts.
        lede: A line below the heading.
        form: Asks for the reason; without any templates by default.
        is_harm: Whether the button warns.
    """
    form = form or DeedForm(request.POST if request.method == "POST" else None)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                return do(form.cleaned_data["reason"])
            except MarketplaceError as error:
                add_problem(form, error)
                status = error.http_status
    context = {
        "form": form,
        "title": title,
        "button": button,
        "back": back,
        "consequences": consequences,
        "lede": lede,
        "is_harm": is_harm,
    }
    return render(request, "marketplace/platform/deed.html", context, status=status)
