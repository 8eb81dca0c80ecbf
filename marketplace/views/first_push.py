"""The way to a first model on sale: steps with their commands, ticked as they happen."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.context import actor_of, list_memberships, requested_account
from marketplace.core.errors import MarketplaceError
from marketplace.models import Account
from marketplace.selectors.access import has_right, require_right
from marketplace.selectors.first_push import find_first_push
from marketplace.services import first_push as services
from marketplace.toast import add_undoable
from marketplace.views.confirm import needs_confirmation
from strongroom.sniff import REASONS


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
@needs_confirmation("POST")
def first_push(request: HttpRequest) -> HttpResponse:
    """The guide. POST makes the key and shows it, once: it is never in a URL or a session."""
    account = requested_account(request, "push")
    if request.method == "GET":
        if request.htmx:  # type: ignore[attr-defined]
            return _live(request, account)
        return render(request, "marketplace/first_push.html", _context(request, account))
    actor = actor_of(request)
    require_right(actor, account, "keys")
    try:
        api_key, secret = services.issue_push_key(actor=actor, account=account)
    except MarketplaceError as error:
        messages.error(request, error.detail)
        return redirect(f"{request.path}?account={account.slug}")
    context = _context(request, account) | {"api_key": api_key, "secret": secret.text}
    return render(request, "marketplace/first_push.html", context, status=201)


@login_required
@require_POST
def first_push_hide(request: HttpRequest) -> HttpResponse:
    """Put the steps of the dashboard away, or with `show` bring them back."""
    account = requested_account(request)
    is_shown = "show" in request.POST
    services.put_away(actor=actor_of(request), account=account, is_hidden=not is_shown)
    if not is_shown:
        url = f"{request.path}?account={account.slug}"
        add_undoable(request, "The first steps are put away.", url=url, fields={"show": "1"})
    return redirect(f"{reverse('marketplace:dashboard')}?account={account.slug}")


def checklist(request: HttpRequest, account: Account) -> dict[str, Any]:
    """What the dashboard shows of it: the steps until all are done, or a way to have them back."""
    progress = find_first_push(account)
    if progress.is_done:
        return {}
    hidden = [
        one.first_push_hidden_at for one in list_memberships(request) if one.account == account
    ]
    return {"first_push": progress, "first_push_hidden": any(hidden)}


def _live(request: HttpRequest, account: Account) -> HttpResponse:
    """The part that ticks; nothing where nothing has happened."""
    progress = find_first_push(account)
    if request.GET.get("seen") == progress.mark:
        return HttpResponse(status=204)
    context = {"account": account, "progress": progress}
    return render(request, "marketplace/_first_push_steps.html", context)


def _context(request: HttpRequest, account: Account) -> dict[str, Any]:
    return {
        "account": account,
        "progress": find_first_push(account),
        "web_url": settings.WEB_URL,
        "can_make_keys": has_right(actor_of(request), account, "keys"),
        "refused": [text for code, text in REASONS.items() if code != "unknown_format"],
    }
