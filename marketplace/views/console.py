"""The consumer's overview: keys, wallet and usage, and a first call to copy."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from marketplace.context import actor_of, current_account, requested_account
from marketplace.selectors.access import has_right
from marketplace.selectors.key import list_live_keys

KEYS_SHOWN = 5


@login_required
@require_safe
def console(request: HttpRequest) -> HttpResponse:
    """Everything a consumer needs on one page."""
    if current_account(request) is None and "account" not in request.GET:
        return redirect("marketplace:account-new")
    account = requested_account(request)
    can_see_keys = has_right(actor_of(request), account, "keys")
    context = {
        "account": account,
        "can_see_keys": can_see_keys,
        "keys": list(list_live_keys(account)[:KEYS_SHOWN]) if can_see_keys else [],
        "now": timezone.now(),
    }
    return render(request, "marketplace/console.html", context)
