"""The platform's own pages about the queue: what waits and runs, and what died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from inference.core.job_reason import describe_reason
from inference.forms.dead_job import DeadForm
from inference.models import Job
from inference.selectors import dead_job as dead
from inference.selectors import queue as selectors
from inference.selectors.fleet import describe_condition
from inference.services import dead_job as services
from inference.services.job import DEAD_KEPT, HISTORY_KEPT
from marketplace.context import actor_of
from marketplace.core import ids
from marketplace.core.errors import NotFoundError
from marketplace.core.money import format_nanos
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, ask_or_do, platform_admin_required


@platform_admin_required
@require_safe
def queue(request: HttpRequest) -> HttpResponse:
    """All that waits and runs, by version and by node; the page looks again by itself."""
    depths = selectors.list_depths()
    leases = selectors.list_leases()
    dead_count, dead_since = dead.count_dead()
    context = {
        "depths": depths,
        "waiting": sum(one.waiting for one in depths),
        "running": sum(one.running for one in depths),
        "oldest_at": min((one.oldest_at for one in depths if one.oldest_at), default=None),
        "leases": [_describe_node(one) for one in leases],
        "dead_count": dead_count,
        "dead_since": dead_since,
        "chart": draw_endings(selectors.count_endings()),
    }
    return render(request, "inference/platform/queue.html", context)


@platform_admin_required
@require_safe
def dead_jobs(request: HttpRequest) -> HttpResponse:
    """Dead jobs by model and reason, the newest first."""
    form = DeadForm(request.GET)
    status = 200 if form.is_valid() else 422
    chosen = form.filter
    page = page_of(request, dead.list_dead(chosen), PAGE_SIZE)
    names = dead.name_accounts(one.account_id for one in page)
    context = {
        "form": form,
        "page": page,
        "lines": [_describe_dead(one, names.get(one.account_id, "")) for one in page],
        "is_chosen": bool(chosen.model or chosen.reason),
        "kept_days": DEAD_KEPT.days,
        "replayed_max": services.DEAD_AT_ONCE_MAX,
        "all_query": urlencode({"all": 1, "model": chosen.model, "reason": chosen.reason}),
    }
    return render(request, "inference/platform/dead_jobs.html", context, status=status)


@platform_admin_required
@require_safe
def dead_job(request: HttpRequest, public_id: str) -> HttpResponse:
    """One dead job: whose it is, and each attempt with its node and its end."""
    job = dead.get_dead(public_id)
    account = dead.name_accounts([job.account_id]).get(job.account_id, "")
    attempts = [
        {"one": one, "text": describe_reason(one.row.code)} for one in dead.list_attempts(job.pk)
    ]
    context = _describe_dead(job, account) | {
        "attempts": attempts,
        "gone_at": job.finished_at + DEAD_KEPT if job.finished_at else None,
    }
    return render(request, "inference/platform/dead_job.html", context)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def replay(request: HttpRequest) -> HttpResponse:
    """Run those that `job` names again: asks for a reason first, and shows what came of it.

    With `all`, the oldest of a filter are named, so that a person agrees to just these.
    """
    if "all" in request.GET and request.method != "POST":
        return _name_all(request)
    wanted = services.read_ids(request.GET.getlist("job"))
    jobs = list(dead.list_dead().filter(pk__in=wanted))
    if not jobs:
        raise NotFoundError("None of these predictions is dead; they may have been run again.")

    def do(reason: str) -> HttpResponse:
        done = services.replay_jobs(actor=actor_of(request), jobs=jobs, reason=reason)
        context = {
            "done": done,
            "queued_count": sum(not one.problem for one in done),
            "missing_count": len(wanted) - len(jobs),
        }
        return render(request, "inference/platform/replayed.html", context)

    is_one = len(jobs) == 1
    return ask_or_do(
        request,
        do=do,
        title="Run it again" if is_one else f"Run {len(jobs)} predictions again",
        button="Run it again" if is_one else f"Run {len(jobs)} again",
        back=reverse("inference:dead-jobs"),
        consequences=_foretell(jobs, len(wanted)),
        is_harm=False,
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def discard(request: HttpRequest) -> HttpResponse:
    """Give those up that `job` names: asks for a reason first, and shows what came of it.

    The same form sent again finds that all is done, and changes nothing.
    """
    wanted = services.read_ids(request.GET.getlist("job"))
    jobs = list(dead.list_dead().filter(pk__in=wanted))
    done_before = dead.list_discarded().filter(pk__in=wanted)
    if not jobs and not (request.method == "POST" and done_before.exists()):
        raise NotFoundError("None of these predictions is dead; they may have been run again.")

    def do(reason: str) -> HttpResponse:
        done = services.discard_jobs(actor=actor_of(request), job_ids=wanted, reason=reason)
        context = {"done": done, "discarded_count": sum(one.is_discarded for one in done)}
        return render(request, "inference/platform/discarding.html", context)

    return ask_or_do(
        request,
        do=do,
        title=f"Discard {_count(len(jobs), 'dead prediction')}",
        button="Discard it" if len(jobs) == 1 else f"Discard {len(jobs)}",
        back=reverse("inference:dead-jobs"),
        consequences=_foretell_discard(jobs, len(wanted)),
    )


@platform_admin_required
@require_safe
def discarded(request: HttpRequest) -> HttpResponse:
    """What was given up, with whoever did that and why."""
    page = page_of(request, dead.list_discarded(), PAGE_SIZE)
    accounts = dead.name_accounts(one.account_id for one in page)
    versions = dead.name_versions(one.version_id for one in page)
    reasons = dead.explain_discarded(page)
    lines = []
    for one in page:
        actor, reason = reasons.get(one.pk, ("", ""))
        lines.append(
            {
                "job": one,
                "public_id": ids.to_public(one.pk),
                "account": accounts.get(one.account_id, ""),
                "version": versions.get(one.version_id, ""),
                "actor": actor,
                "reason": reason,
            }
        )
    context = {"page": page, "lines": lines, "kept_days": HISTORY_KEPT.days}
    return render(request, "inference/platform/discarded.html", context)


def _name_all(request: HttpRequest) -> HttpResponse:
    chosen = DeadForm(request.GET).filter
    oldest = dead.list_dead(chosen).order_by("finished_at", "pk")
    found = oldest.values_list("pk", flat=True)[: services.DEAD_AT_ONCE_MAX]
    query = urlencode({"job": [ids.to_public(one) for one in found]}, doseq=True)
    return redirect(f"{reverse('inference:dead-replay')}?{query}")


def _foretell(jobs: Sequence[Job], wanted_count: int) -> list[str]:
    accounts = len({one.account_id for one in jobs})
    count, most = len(jobs), sum(one.gross_nanos for one in jobs)
    wait = "waits" if count == 1 else "wait"
    them = "it" if count == 1 else "them"
    lines = [
        f"{_count(count, 'prediction')} of {_count(accounts, 'account')} {wait} in the queue anew.",
        f"All attempts lie before {them} once more.",
        f"At most {format_nanos(most)} is reserved anew. Who has no credit is left out.",
        "Who is told of its predictions has heard that they failed, and hears how they end now.",
    ]
    return lines + _foretell_gone(wanted_count - count)


def _foretell_discard(jobs: Sequence[Job], wanted_count: int) -> list[str]:
    accounts = len({one.account_id for one in jobs})
    count = len(jobs)
    lines = [
        f"{_count(count, 'prediction')} of {_count(accounts, 'account')} can never run again.",
        "What went in is deleted.",
        "To their accounts they stay predictions that failed, and that cost nothing.",
        "Nobody is told: who is told of its predictions has heard that they failed.",
    ]
    return lines + _foretell_gone(wanted_count - count)


def _foretell_gone(gone: int) -> list[str]:
    if not gone:
        return []
    return [f"{gone} of those chosen {'is' if gone == 1 else 'are'} not dead any more."]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _describe_node(found: selectors.NodeLeases) -> dict[str, Any]:
    node = found.node
    return {
        "leases": found,
        "name": node.name if node else str(found.node_id),
        "condition": describe_condition(node) if node else "gone",
        "drain_requested_at": node.drain_requested_at if node else None,
        "jobs": [{"row": one, "public_id": ids.to_public(one.pk)} for one in found.jobs],
    }


def _describe_dead(job: Job, account: str) -> dict[str, Any]:
    return {
        "job": job,
        "public_id": ids.to_public(job.pk),
        "account": account,
        "reason": describe_reason(job.error),
    }


def draw_endings(endings: selectors.Endings) -> dict[str, Any]:
    """The chart of how jobs ended; kinds that did not occur have no line."""
    shown = [name for name in selectors.ENDINGS if endings.count(name)] or ["succeeded"]
    return {
        "endings": endings,
        "series": [
            {"label": name.capitalize(), "values": list(endings.counts[name])} for name in shown
        ],
        "times": endings.times,
        "hours": int(selectors.ENDINGS_STEP.total_seconds() * selectors.ENDINGS_POINTS // 3_600),
    }
