"""The consumer's queue: what waits and runs now, and how to give it up."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.forms.queue import QueueForm
from inference.models import Job
from inference.selectors import job as selectors
from inference.selectors.job import JobFilter
from inference.services import queue as services
from marketplace.context import actor_of, requested_account
from marketplace.core import ids
from marketplace.core.errors import ConflictError, InvalidInputError
from marketplace.models import Account
from marketplace.selectors.access import has_right
from marketplace.views.redirects import own_url


@login_required
@require_safe
def queue(request: HttpRequest) -> HttpResponse:
    """What an account has in the queue; the page looks again by itself."""
    account = requested_account(request)
    form = QueueForm(request.GET)
    status = 200 if form.is_valid() else 422
    chosen = form.filter
    after = request.GET.get("after", "")
    running = [] if after else selectors.list_running(account, chosen)
    page = selectors.get_page(account, chosen, after=after)
    context = {
        "account": account,
        "form": form,
        "is_chosen": chosen != JobFilter() or bool(form.errors),
        "running": running,
        "page": page,
        "after": after,
        "dead": [] if after else selectors.list_dead(account, chosen),
        "dead_shown": selectors.DEAD_SHOWN,
        "waiting_count": selectors.list_waiting(account, chosen).count() if page.lines else 0,
        "can_cancel": has_right(actor_of(request), account, services.RIGHT),
        "query": _query_of(account, chosen),
        "here": request.get_full_path(),
    }
    return render(request, "inference/queue.html", context, status=status)


@login_required
@require_POST
def cancel(request: HttpRequest, public_id: str) -> HttpResponse:
    """Give one up, wherever the button was pressed."""
    actor = actor_of(request)
    job = selectors.access_job(actor, public_id)
    account = Account.objects.get(pk=job.account_id)
    try:
        state = services.cancel_job(actor=actor, account=account, job=job)
    except ConflictError as error:
        messages.error(request, error.detail)
    else:
        if state == Job.State.CANCELED:
            messages.success(request, "Canceled. It costs nothing.")
        else:
            messages.success(request, "It is told to stop. What it delivered is paid for.")
    default = reverse("inference:prediction", args=[public_id])
    return redirect(own_url(request, request.POST.get("next"), default))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def cancel_waiting(request: HttpRequest) -> HttpResponse:
    """Give up all that wait of a filter: names them first, and does it when asked once more.

    `until` is the newest that was counted, so that nothing goes that came later.
    """
    account = requested_account(request, services.RIGHT)
    form = QueueForm(request.GET)
    if not form.is_valid():
        raise InvalidInputError("Name a model as owner/name.")
    chosen = replace(form.filter, state="")
    back = f"{reverse('inference:queue')}?{_query_of(account, chosen)}"
    if request.method == "POST":
        until = selectors.read_id(request.POST.get("until", ""))
        count, is_done = services.cancel_waiting(
            actor=actor_of(request), account=account, chosen=chosen, until=until
        )
        messages.success(request, _say(count, is_done=is_done))
        return redirect(back)
    waiting = selectors.list_waiting(account, chosen)
    newest = waiting.order_by("-pk").values_list("pk", flat=True).first()
    context = {
        "account": account,
        "chosen": chosen,
        "count": waiting.filter(pk__lte=newest).count() if newest else 0,
        "until": ids.to_public(newest) if newest else "",
        "back": back,
    }
    return render(request, "inference/queue_cancel.html", context)


def _say(count: int, *, is_done: bool) -> str:
    if not count:
        return "Nothing of it waited any more."
    noun = "prediction" if count == 1 else "predictions"
    if is_done:
        return f"{count:,} {noun} canceled."
    return f"{count:,} {noun} are being canceled. How many are left shows here."


def _query_of(account: Account, chosen: JobFilter) -> str:
    fields = {"model": chosen.model, "state": chosen.state, "tag": chosen.tag}
    given = {name: value for name, value in fields.items() if value}
    return urlencode({"account": account.slug} | given)
