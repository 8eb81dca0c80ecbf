"""Search the audit log, and take it along."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from marketplace.context import actor_of
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.forms.platform import AuditForm
from marketplace.selectors import vital
from marketplace.selectors.audit import Search, find_head, search_events
from marketplace.services.audit_export import export_events
from marketplace.services.vital import AUDIT
from marketplace.tasks import check_audit_log
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, platform_admin_required


@platform_admin_required
@require_safe
def events(request: HttpRequest) -> HttpResponse:
    """What people did, the latest first; by person, account, deed, thing and time."""
    form = AuditForm(request.GET)
    search = form.to_search() if form.is_valid() else Search()
    context = {
        "form": form,
        "is_search": search != Search(),
        "page": page_of(request, search_events(search), PAGE_SIZE),
        "chain": vital.find_pulse(AUDIT, "Chain"),
        "head": find_head(),
    }
    status = 200 if form.is_valid() else 422
    return render(request, "marketplace/platform/audit.html", context, status=status)


@platform_admin_required
@require_safe
def events_export(request: HttpRequest) -> HttpResponseBase:
    """What was found, as a file that proves itself."""
    form = AuditForm(request.GET)
    if not form.is_valid():
        raise InvalidInputError("This cannot be searched for.")
    search = form.to_search()
    asked = {name: str(value) for name, value in form.cleaned_data.items() if value}
    chunks = export_events(actor=actor_of(request), events=search_events(search), asked=asked)
    response = StreamingHttpResponse(chunks, content_type="text/csv; charset=utf-8")
    name = f"audit-{utc_now():%Y%m%d-%H%M%S}.csv"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@platform_admin_required
@require_POST
def check(request: HttpRequest) -> HttpResponse:
    """Have a worker check the whole chain."""
    check_audit_log.delay()
    messages.info(request, "The chain is being checked. The result is here in a moment.")
    return redirect("marketplace:audit")
