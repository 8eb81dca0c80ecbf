"""API keys: list, make, show once, look at, limit, revoke."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from marketplace.context import actor_of, requested_account
from marketplace.core import limits
from marketplace.core.errors import ConflictError, InvalidInputError, NotFoundError
from marketplace.errors import EmailNotVerifiedError
from marketplace.forms.key import KeyForm
from marketplace.forms.limits import KeyLimitsForm
from marketplace.forms.problem import add_problem
from marketplace.models import APIKey
from marketplace.selectors import key as selectors
from marketplace.services import key as services
from marketplace.services.limits import LIST_FIELDS, RATE_FIELDS
from marketplace.views.confirm import needs_confirmation
from marketplace.views.once import sent_once
from marketplace.views.paging import page_of


@login_required
@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    """The account's keys, revoked ones included."""
    account = requested_account(request, "keys")
    context = {
        "account": account,
        "page": page_of(request, selectors.list_keys(account)),
        "live_count": selectors.list_live_keys(account).count(),
        "live_max": limits.KEYS_PER_ACCOUNT_MAX,
        "now": timezone.now(),
    }
    return render(request, "marketplace/keys.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
@needs_confirmation()
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """Make a key. The answer to the POST shows it: it is never in a URL or a session."""
    account = requested_account(request, "keys")
    form = KeyForm(request.POST or None)
    if form.is_valid():
        try:
            api_key, secret = services.issue_key(
                actor=actor_of(request),
                account=account,
                name=form.cleaned_data["name"],
                mode=form.cleaned_data["mode"],
                scopes=form.cleaned_data["scopes"] or None,
                expires_at=form.expires_at(),
                key_limits=form.key_limits(),
            )
        except (InvalidInputError, ConflictError, EmailNotVerifiedError) as error:
            add_problem(form, error)
        else:
            context = {"account": account, "api_key": api_key, "secret": secret.text}
            return render(request, "marketplace/key_made.html", context, status=201)
    context = {"account": account, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "marketplace/key_new.html", context, status=status)


@login_required
@require_safe
def show(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """One key: what it may do and is limited to; billing says what it has cost."""
    api_key = selectors.access_key(actor_of(request), key_id)
    context = {
        "api_key": api_key,
        "account": api_key.account,
        "now": timezone.now(),
        "can_limit": _can_limit(api_key),
        "is_limited": any(getattr(api_key, name) for name in (*RATE_FIELDS, *LIST_FIELDS)),
    }
    return render(request, "marketplace/key.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def edit(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Change what a key is limited to."""
    actor = actor_of(request)
    api_key = selectors.access_key(actor, key_id)
    if not _can_limit(api_key):
        raise NotFoundError("Only keys that run predictions have limits, until they are revoked.")
    # A form without any entry takes every limit away.
    posted = request.POST if request.method == "POST" else None
    form = KeyLimitsForm(posted, initial=KeyLimitsForm.initial_of(api_key))
    if form.is_valid():
        try:
            services.change_key(actor=actor, api_key=api_key, key_limits=form.key_limits())
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(request, "Saved. It counts within a second.")
            return redirect("marketplace:key", api_key.pk)
    context = {
        "api_key": api_key,
        "account": api_key.account,
        "form": form,
        "has_budgets": api_key.mode == APIKey.Mode.LIVE,
    }
    status = 422 if form.is_bound else 200
    return render(request, "marketplace/key_edit.html", context, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def revoke(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask once more, then end the key at once."""
    actor = actor_of(request)
    api_key = selectors.access_key(actor, key_id)
    if request.method == "POST":
        services.revoke_key(actor=actor, api_key=api_key)
        messages.success(request, f"{api_key.name} is revoked.")
        return redirect(f"{reverse('marketplace:keys')}?account={api_key.account.slug}")
    context = {"api_key": api_key, "account": api_key.account}
    return render(request, "marketplace/key_revoke.html", context)


def _can_limit(api_key: APIKey) -> bool:
    return api_key.mode != APIKey.Mode.TOKEN and api_key.revoked_at is None
