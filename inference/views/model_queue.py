"""What waits for a model, for its creator: how much and how long, and nothing of whose it is."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.selectors import queue as selectors
from inference.selectors.metric import VERSIONS_MAX, make_pseudonym
from inference.selectors.onboarding import access_own_model
from inference.views.platform_queue import draw_endings
from marketplace.context import actor_of
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion


@login_required
@require_safe
def model_queue(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The queue of an own model by version and class; the page looks again by itself."""
    model = access_own_model(actor_of(request), owner, name)
    newest = ModelVersion.objects.filter(model=model).order_by("-number")
    versions = list(newest.values_list("pk", flat=True)[:VERSIONS_MAX])
    depths = [
        one
        for one in selectors.list_depths(versions)
        if one.waiting or one.running or one.place_count or one.mean_s is not None
    ]
    month = utc_now()
    context = {
        "model": model,
        "depths": depths,
        "waiting": sum(one.waiting for one in depths),
        "running": sum(one.running for one in depths),
        "oldest_at": min((one.oldest_at for one in depths if one.oldest_at), default=None),
        "waiters": [
            {
                "pseudonym": make_pseudonym(model.account_id, one.account_id, month),
                "is_own": one.account_id == model.account_id,
                "count": one.count,
            }
            for one in selectors.list_waiters(versions)
        ],
        "waiters_shown": selectors.WAITERS_SHOWN,
        "chart": draw_endings(selectors.count_endings(versions)),
    }
    return render(request, "inference/monitoring_queue.html", context)
