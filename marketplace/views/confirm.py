"""Prove once more who sits there, before money, keys and ways to sign in.

A view asks for it by `@needs_confirmation()`. Whoever proved itself in the last quarter of an
hour, as everybody has who just signed in, notices nothing. The others get a page that asks,
and then what they asked for: a link is followed, and a form is sent as it was filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import quote

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render, resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.address import address_of
from marketplace.core.errors import AuthenticationError
from marketplace.forms.security import ConfirmForm
from marketplace.models import User
from marketplace.selectors.security import has_factor, list_passkeys
from marketplace.services import account, passkey, second_factor
from marketplace.services.session import confirm_session, is_confirmed
from marketplace.views.redirects import next_of, page_of_swap

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]
_PURPOSE = "confirm"
# The page's own fields; all others belong to the form that it keeps.
_FIELDS = ("confirm_password", "confirm_code", "confirm_passkey")


def needs_confirmation(*methods: str) -> Callable[[View[P]], View[P]]:
    """Let a view be reached only shortly after a proof; stands below `login_required`.

    Args:
        *methods: The methods that need it; all, if none is named.
    """

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        @sensitive_post_parameters(*_FIELDS)
        def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            is_free = bool(methods) and request.method not in methods
            if is_free or is_confirmed(request.session):
                return view(request, *args, **kwargs)
            refusal = _ask(request)
            return refusal if refusal is not None else view(request, *args, **kwargs)

        return guarded

    return decorate


@login_required
@never_cache
@sensitive_post_parameters(*_FIELDS)
@require_http_methods(["GET", "POST"])
def confirm(request: HttpRequest) -> HttpResponse:
    """Prove it, then go where one wanted to."""
    form = ConfirmForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and _prove(request, form):
        return redirect(next_of(request))
    return _page(request, form, {"next": next_of(request)})


@login_required
@never_cache
@require_POST
def options(request: HttpRequest) -> JsonResponse:
    """What the person's passkey is asked to sign."""
    assert isinstance(request.user, User)
    return JsonResponse(passkey.begin_proof(request.session, purpose=_PURPOSE, user=request.user))


def _ask(request: HttpRequest) -> HttpResponse | None:
    """The page that asks; None if the request has just given the proof."""
    if request.htmx:  # type: ignore[attr-defined]
        url = f"{resolve_url('marketplace:confirm')}?next={quote(page_of_swap(request))}"
        return HttpResponse(headers={"HX-Redirect": url})
    if request.method != "POST":
        url = resolve_url("marketplace:confirm")
        return redirect(f"{url}?next={quote(request.get_full_path())}")
    if request.FILES:
        # Files cannot be kept in a page.
        messages.info(request, "Confirm that it is you, then send the form once more.")
        url = resolve_url("marketplace:confirm")
        return redirect(f"{url}?next={quote(request.get_full_path())}")
    has_proof = any(name in request.POST for name in _FIELDS)
    form = ConfirmForm(request.POST if has_proof else None)
    if has_proof and _prove(request, form):
        posted = request.POST.copy()
        for name in _FIELDS:
            posted.pop(name, None)
        request.POST = posted  # type: ignore[assignment]
        return None
    kept = [
        (name, value)
        for name, values in request.POST.lists()
        for value in values
        if name not in (*_FIELDS, "csrfmiddlewaretoken")
    ]
    return _page(request, form, {"kept": kept}, status=422)


def _prove(request: HttpRequest, form: forms.Form) -> bool:
    """Check password, code or passkey; whoever has a second factor shows that one."""
    assert isinstance(request.user, User)
    user = request.user
    if not form.is_valid():
        return False
    sent = form.cleaned_data
    try:
        if sent["confirm_passkey"]:
            answer = sent["confirm_passkey"]
            passkey.finish_proof(request.session, purpose=_PURPOSE, answer=answer, user=user)
            factor = "passkey"
        elif has_factor(user):
            factor = second_factor.check_code(user, sent["confirm_code"])
        else:
            factor = ""
            account.check_own_password(
                user=user, password=sent["confirm_password"], address=address_of(request)
            )
    except AuthenticationError as error:
        form.add_error(None, error.detail)
        return False
    confirm_session(request.session, factor=factor)
    return True


def _page(
    request: HttpRequest, form: forms.Form, context: dict[str, Any], *, status: int | None = None
) -> HttpResponse:
    assert isinstance(request.user, User)
    user = request.user
    is_by_factor = has_factor(user)
    shown = form["confirm_code"] if is_by_factor else form["confirm_password"]
    # It is one of three proofs, but the only field that this page has.
    shown.field.required = True
    has_passkey = passkey.is_at_origin(request.get_host()) and list_passkeys(user).exists()
    context |= {"form": form, "shown": shown, "has_passkey": has_passkey}
    status = status or (422 if form.is_bound else 200)
    response = render(request, "marketplace/confirm.html", context, status=status)
    response["Cache-Control"] = "no-store, private"
    return response
