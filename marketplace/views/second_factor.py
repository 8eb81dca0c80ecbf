"""The second step of signing in, and signing in by a passkey alone."""

from __future__ import annotations

import time

from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.address import address_of
from marketplace.core import limits
from marketplace.core.errors import AuthenticationError
from marketplace.forms.account import LoginForm
from marketplace.forms.problem import add_problem
from marketplace.forms.security import CodeForm
from marketplace.models import User
from marketplace.selectors.security import has_factor, list_passkeys
from marketplace.services import passkey, second_factor, throttle
from marketplace.services.session import confirm_session
from marketplace.views.redirects import next_of, own_url

# Sessions of people who signed in here; there is one way to authenticate.
BACKEND = "django.contrib.auth.backends.ModelBackend"
_PENDING_KEY = "pending_login"
_PURPOSE = "login"


def finish_login(
    request: HttpRequest, user: User, *, factor: str = "", target: str
) -> HttpResponse:
    """Begin the session of somebody who has proved to be `user`."""
    request.session.pop(_PENDING_KEY, None)
    login(request, user, backend=BACKEND)
    confirm_session(request.session, factor=factor)
    return redirect(target)


def finish_password(request: HttpRequest, user: User) -> HttpResponse:
    """After the right password: in, or on to the second step."""
    target = next_of(request)
    if not has_factor(user):
        return finish_login(request, user, target=target)
    # A key that somebody else may have set before is worth nothing from here on.
    request.session.cycle_key()
    request.session[_PENDING_KEY] = {
        "user": str(user.pk),
        "stamp": user.get_session_auth_hash(),
        "at": int(time.time()),
        "next": target,
    }
    return redirect("marketplace:second-factor")


@never_cache
@sensitive_post_parameters("code")
@require_http_methods(["GET", "POST"])
def second_step(request: HttpRequest) -> HttpResponse:
    """A code of the app, or a recovery code."""
    user = _pending_user(request)
    if user is None:
        return redirect("marketplace:login")
    form = CodeForm(request.POST or None)
    if form.is_valid():
        try:
            factor = second_factor.check_code(user, form.cleaned_data["code"])
        except AuthenticationError as error:
            add_problem(form, error)
        else:
            target = own_url(request, request.session[_PENDING_KEY]["next"])
            return finish_login(request, user, factor=factor, target=target)
    return _second_page(request, user, form)


@never_cache
@require_POST
def passkey_options(request: HttpRequest) -> JsonResponse:
    """What a passkey is asked to sign: one of whoever gave its password, or anybody's."""
    throttle.count_passkey(address=address_of(request))
    user = _pending_user(request)
    return JsonResponse(passkey.begin_proof(request.session, purpose=_PURPOSE, user=user))


@never_cache
@require_POST
def passkey_login(request: HttpRequest) -> HttpResponse:
    """Sign in by a passkey: it is a possession, and it has checked finger, face or PIN."""
    if request.user.is_authenticated:
        return redirect(next_of(request))
    answer = request.POST.get("credential", "")
    pending = _pending_user(request)
    try:
        user = passkey.finish_proof(request.session, purpose=_PURPOSE, answer=answer, user=pending)
    except AuthenticationError as error:
        return _refuse_passkey(request, pending, error.detail)
    return finish_login(request, user, factor="passkey", target=next_of(request))


def _pending_user(request: HttpRequest) -> User | None:
    """Who gave the right password a short while ago, and has not changed it since."""
    pending = request.session.get(_PENDING_KEY)
    if pending is None or time.time() - pending["at"] > limits.PENDING_LOGIN_LIFETIME_S:
        return None
    user = User.objects.filter(pk=pending["user"], is_active=True).first()
    if user is None or not constant_time_compare(user.get_session_auth_hash(), pending["stamp"]):
        return None
    return user


def _refuse_passkey(request: HttpRequest, pending: User | None, fault: str) -> HttpResponse:
    """The page on which the passkey was asked for."""
    if pending is not None:
        return _second_page(request, pending, CodeForm(), fault=fault)
    context = {
        "form": LoginForm(),
        "next": request.POST.get("next", ""),
        "passkey_fault": fault,
        "has_passkeys": True,
    }
    return render(request, "marketplace/login.html", context, status=422)


def _second_page(
    request: HttpRequest, user: User, form: CodeForm, *, fault: str = ""
) -> HttpResponse:
    can_ask = passkey.is_at_origin(request.get_host()) and list_passkeys(user).exists()
    context = {
        "form": form,
        "next": request.session[_PENDING_KEY]["next"],
        "has_passkey": bool(fault) or can_ask,
        "passkey_fault": fault,
    }
    status = 422 if form.is_bound or fault else 200
    return render(request, "marketplace/second_factor.html", context, status=status)
