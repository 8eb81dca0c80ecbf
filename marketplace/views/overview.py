"""The platform at a glance: what waits, what is well, what goes on."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from marketplace.selectors import platform, vital
from marketplace.selectors.platform import Waiting
from marketplace.services.vital import AUDIT
from marketplace.views.platform import platform_admin_required


@platform_admin_required
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """The page; its parts fetch themselves, and look again by themselves."""
    return render(request, "marketplace/platform/overview.html")


@platform_admin_required
@require_safe
def waiting_panel(request: HttpRequest) -> HttpResponse:
    """What waits for a decision about models, and whether what runs by itself does."""
    reviews = Waiting(
        "Versions to review", reverse("marketplace:reviews"), *platform.count_reviews()
    )
    reports = Waiting(
        "Reports of models", reverse("marketplace:reports"), *platform.count_reports()
    )
    appeals = Waiting(
        "Appeals of owners",
        f"{reverse('marketplace:reports')}?show=appeals",
        *platform.count_appeals(),
    )
    context = {
        "waiting": [reviews, reports, appeals],
        "workers": vital.list_workers(),
        "audit": vital.find_pulse(AUDIT, "Audit log"),
    }
    return render(request, "marketplace/platform/panels/waiting.html", context)
