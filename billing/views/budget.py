"""What a key has cost, shown where the key is shown."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing.selectors.budget import list_budgets
from marketplace.context import actor_of
from marketplace.selectors.key import access_key


@login_required
@require_safe
def key_panel(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """The budgets of a key, and how much of each is spent."""
    api_key = access_key(actor_of(request), key_id)
    context = {"api_key": api_key, "budgets": list_budgets(api_key, timezone.now())}
    return render(request, "billing/panels/key.html", context)
