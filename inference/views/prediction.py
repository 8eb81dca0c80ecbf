"""The consumer's log of predictions."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from inference.core.job_reason import describe_reason
from inference.forms.prediction import PredictionForm
from inference.models import Job, Prediction, WebhookDelivery
from inference.selectors import job as jobs
from inference.selectors import prediction as selectors
from inference.selectors.job import JobLine
from inference.selectors.prediction import PredictionFilter
from inference.selectors.webhook import RIGHT as WEBHOOK_RIGHT
from inference.services.queue import RIGHT
from inference.views.panel import panel_login_required, render_panel
from marketplace.context import actor_of, requested_account
from marketplace.core.clock import utc_now
from marketplace.models import Account
from marketplace.selectors.access import Actor, has_right
from marketplace.templatetags.ui import duration

_MS = timedelta(milliseconds=1)


@login_required
@require_safe
def predictions(request: HttpRequest) -> HttpResponse:
    """An account's predictions by time, model, key, state and cost; newest first, 50 a page."""
    account = requested_account(request)
    form = PredictionForm(request.GET, account=account)
    is_valid = form.is_valid()
    chosen = form.filter if is_valid else PredictionFilter()
    query = request.GET.copy()
    query.pop("before", None)
    query["account"] = account.slug
    context = {
        "account": account,
        "form": form,
        "chosen": chosen,
        "is_chosen": chosen != PredictionFilter(),
        "look_back_days": selectors.LOOK_BACK.days,
        "page": selectors.get_page(account, chosen, before=request.GET.get("before", "")),
        "query": query.urlencode(),
    }
    status = 200 if is_valid else 422
    return render(request, "inference/predictions.html", context, status=status)


@panel_login_required
@require_safe
def predictions_panel(request: HttpRequest) -> HttpResponse:
    """An account's predictions, newest first, 50 a page."""
    account = requested_account(request)
    page = selectors.get_page(account, before=request.GET.get("before", ""))
    context = {"account": account, "page": page}
    return render_panel(request, "predictions", context, title="Predictions")


@login_required
@require_safe
def prediction(request: HttpRequest, public_id: str) -> HttpResponse:
    """One prediction; its address is in the envelope that the API answers."""
    actor = actor_of(request)
    found = selectors.find_prediction(actor, public_id)
    if found is None:
        return _show_job(request, jobs.access_job(actor, public_id))
    completed_at = found.completed_at
    context = {
        "prediction": found,
        "public_id": public_id,
        "predict_ms": found.predict_time_us / 1000,
        "total_ms": (completed_at - found.created_at) / _MS if completed_at else None,
        "key": selectors.find_key(found),
        "input": _show(found.input),
        "output": _show(found.output),
        "kept_until": selectors.find_kept_until(found),
        "attempts": jobs.list_attempts(found.pk),
        "deliveries": _list_deliveries(actor, found, until=completed_at),
    }
    return render(request, "inference/prediction.html", context)


def _show_job(request: HttpRequest, job: Job) -> HttpResponse:
    """One that waits or runs, or that no node could run; it looks again until it is over."""
    actor = actor_of(request)
    account = Account.objects.get(pk=job.account_id)
    [line] = jobs.place([job])
    context = {
        "account": account,
        "line": line,
        "public_id": line.public_id,
        "steps": _list_steps(line),
        "is_live": job.state in jobs.OPEN,
        "is_running": not line.is_waiting,
        "can_cancel": has_right(actor, account, RIGHT),
        "source": dict(Prediction.Source.choices).get(job.source, job.source),
        "reason": describe_reason(job.error),
        "attempts": jobs.list_attempts(job.pk, job),
        "deliveries": _list_deliveries(actor, job, until=job.finished_at),
    }
    return render(request, "inference/job.html", context)


def _list_steps(line: JobLine) -> list[dict[str, str]]:
    """The way of a job from the queue to its end."""
    job = line.row
    queued = {"title": "Queued", "state": "done", "text": ""}
    running = {"title": "Running", "state": "todo", "text": ""}
    over = {"title": "Over", "state": "todo", "text": ""}
    if job.state == Job.State.DEAD:
        return [queued, {"title": "Failed", "state": "failed", "text": describe_reason(job.error)}]
    if not line.is_waiting:
        state, word = line.stage
        running |= {"state": "current", "text": "" if state == "running" else f"{word} …"}
        return [queued, running, over]
    queued |= {"state": "current", "text": _say_place(line)}
    if line.is_loaded:
        return [queued, running, over]
    text = jobs.describe_loading(job.version_id) or "No node has the model yet."
    loading = {"title": "Loading", "state": "current", "text": text}
    return [queued, loading, running, over]


def _say_place(line: JobLine) -> str:
    place = "Far behind" if line.position is None else f"Number {line.position:,} in its queue"
    if line.position == 1:
        place = "Next in its queue"
    return f"{place}, in about {duration(line.eta_s)}" if line.eta_s else place


def _list_deliveries(
    actor: Actor, one: Prediction | Job, *, until: datetime | None
) -> list[WebhookDelivery]:
    """What was told of it, for who may see webhooks."""
    if not has_right(actor, Account.objects.get(pk=one.account_id), WEBHOOK_RIGHT):
        return []
    return jobs.list_deliveries(
        one.account_id, one.pk, since=one.created_at, until=until or utc_now()
    )


def _show(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
