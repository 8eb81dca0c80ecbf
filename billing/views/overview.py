"""Money's part of the platform's overview."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from billing.models import ReconcileRun
from billing.selectors import overview as selectors
from billing.views.platform import platform_admin_required
from marketplace.selectors.vital import find_pulse

# Traffic now: long enough to be steady, short enough to be now.
RECENT_S = 60


@platform_admin_required
@require_safe
def platform_panel(request: HttpRequest) -> HttpResponse:
    """What waits, whether the books are in order, and what was booked in the last hours."""
    run = selectors.find_last_run()
    urls = {
        "cases": reverse("billing:review-cases"),
        "adjustments": f"{reverse('billing:adjustments')}?state=pending",
        "differences": reverse("billing:reconciliation"),
    }
    bad = (ReconcileRun.State.UNEXPLAINED, ReconcileRun.State.FAILED)
    context = {
        "waiting": selectors.count_waiting(urls),
        "ledger": find_pulse("ledger", "Ledger"),
        "run": run,
        "is_run_good": run is not None and run.state not in bad,
        "hours": selectors.list_hours(),
        "recent": selectors.count_recent(RECENT_S),
    }
    return render(request, "billing/platform/panels/overview.html", context)
