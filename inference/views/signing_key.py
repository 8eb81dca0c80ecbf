"""The signing keys of an account: list, confirm, revoke."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from inference.errors import SameSessionError, SigningKeyRevokedError
from inference.forms.signing_key import ConfirmForm
from inference.models import SigningKey
from inference.selectors import signing_key as selectors
from inference.services import signing_key as services
from marketplace.address import address_of
from marketplace.context import actor_of, requested_account
from marketplace.core.clock import utc_now
from marketplace.core.errors import (
    AuthenticationError,
    ForbiddenError,
    LimitExceededError,
    MarketplaceError,
)
from marketplace.models import User
from marketplace.views.paging import page_of

# What the page of the question can show; all else is an error page.
_TOLD = (
    AuthenticationError,
    ForbiddenError,
    LimitExceededError,
    SameSessionError,
    SigningKeyRevokedError,
)


@login_required
@require_safe
def signing_keys(request: HttpRequest) -> HttpResponse:
    """The account's keys, revoked ones included."""
    account = requested_account(request, "push")
    assert isinstance(request.user, User)
    context = {
        "account": account,
        "page": page_of(request, selectors.list_signing_keys(account)),
        "is_owner": selectors.is_owner(request.user, account),
        "cool_down_h": int(services.COOL_DOWN.total_seconds() // 3600),
        "cooling_since": utc_now() - services.COOL_DOWN,
    }
    return render(request, "inference/signing_keys.html", context)


@login_required
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def confirm(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask for the password, then note that an owner knows the key."""
    key = selectors.access_signing_key(actor_of(request), key_id)
    assert isinstance(request.user, User)
    form = ConfirmForm(request.POST or None)
    if form.is_valid():
        try:
            services.confirm_signing_key(
                key=key,
                user=request.user,
                password=form.cleaned_data["password"],
                session_key=request.session.session_key or "",
                address=address_of(request),
            )
        except _TOLD as error:
            form.add_error(None, _tell(error))
        else:
            messages.success(request, "The key is confirmed. A reviewer still asks you about it.")
            return redirect(_list_of(key))
    context = {
        "key": key,
        "account": key.account,
        "form": form,
        "is_owner": selectors.is_owner(request.user, key.account),
    }
    status = 422 if form.is_bound else 200
    return render(request, "inference/signing_key_confirm.html", context, status=status)


def _tell(error: MarketplaceError) -> str:
    return "This is not your password." if type(error) is AuthenticationError else error.detail


@login_required
@require_http_methods(["GET", "POST"])
def revoke(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask once more, then refuse whatever else the key signs."""
    actor = actor_of(request)
    key = selectors.access_signing_key(actor, key_id)
    if request.method == "POST":
        services.revoke_signing_key(key=key, actor=actor)
        messages.success(request, "The key is revoked. What it signed before goes on to serve.")
        return redirect(_list_of(key))
    context = {"key": key, "account": key.account}
    return render(request, "inference/signing_key_revoke.html", context)


def _list_of(key: SigningKey) -> str:
    return f"{reverse('inference:signing-keys')}?account={key.account.slug}"
