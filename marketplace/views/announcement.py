"""Announcements: made by platform admins, put away by people."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError
from marketplace.forms.platform import AnnouncementForm
from marketplace.forms.problem import add_problem
from marketplace.selectors import announcement as selectors
from marketplace.services import announcement as services
from marketplace.templatetags.banners import COOKIE, read_dismissed
from marketplace.views.once import sent_once
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, platform_admin_required


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
@sent_once
def announcements(request: HttpRequest) -> HttpResponse:
    """All of them; POST makes one."""
    now = utc_now()
    form = AnnouncementForm(
        request.POST if request.method == "POST" else None,
        initial={"starts_at": now.strftime("%Y-%m-%dT%H:%M")},
    )
    status = 422 if form.is_bound else 200
    if form.is_valid():
        try:
            services.announce(actor=actor_of(request), fields=form.cleaned_data)
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            messages.success(request, "It is up, or will be when its time comes.")
            return redirect("marketplace:announcements")
    context = {
        "form": form,
        "page": page_of(request, selectors.list_announcements(), PAGE_SIZE),
        "now": now,
    }
    return render(request, "marketplace/platform/announcements.html", context, status=status)


@platform_admin_required
@require_POST
def announcement_end(request: HttpRequest, announcement_id: UUID) -> HttpResponse:
    """Take one down."""
    found = selectors.get_announcement(announcement_id)
    services.end_announcement(actor=actor_of(request), announcement=found)
    messages.success(request, "It is down.")
    return redirect("marketplace:announcements")


@require_POST
def dismiss(request: HttpRequest, announcement_id: UUID) -> HttpResponse:
    """Put one away, in this browser."""
    target = request.POST.get("next", "")
    is_own = url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()})
    response: HttpResponse = redirect(target if is_own else resolve_url("marketplace:catalogue"))
    if request.htmx:  # type: ignore[attr-defined]
        response = HttpResponse()
    found = selectors.get_announcement(announcement_id)
    if found.is_dismissible:
        kept = [one for one in read_dismissed(request) if one != str(found.pk)]
        response.set_cookie(
            COOKIE,
            ".".join([*kept, str(found.pk)][-limits.DISMISSED_MAX :]),
            max_age=int(limits.ANNOUNCEMENT_LIFETIME_MAX.total_seconds()),
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
    return response
