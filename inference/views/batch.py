"""Batches in the console: what runs, how far it is, what came out, and a new one from a file."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.core.batch_lines import LINES_MAX
from inference.forms.batch import BatchForm, StartForm
from inference.models import Batch, File
from inference.selectors import batch as selectors
from inference.services import batch as services
from inference.services import batch_preview, batch_results
from inference.services import file as files
from inference.views.panel import panel_login_required
from marketplace.context import actor_of, requested_account
from marketplace.core.errors import ConflictError, InvalidInputError, MarketplaceError
from marketplace.forms.problem import add_problem
from marketplace.models import Account
from marketplace.views.once import sent_once


@login_required
@require_safe
def batches(request: HttpRequest) -> HttpResponse:
    """An account's batches, newest first, 50 a page."""
    account = requested_account(request, selectors.RIGHT)
    page = selectors.get_batches(account, before=request.GET.get("before", ""))
    context = {
        "account": account,
        "page": page,
        "lines": [{"row": one, "progress": selectors.measure(one)} for one in page.rows],
    }
    return render(request, "inference/batches.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """Upload a file; what it says and what it would cost is shown before anything runs."""
    account = requested_account(request, selectors.RIGHT)
    initial = {"model": request.GET.get("model", "")}
    form = BatchForm(request.POST or None, request.FILES or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            return _show_preview(request, account, form)
        except MarketplaceError as error:
            add_problem(form, error)
    context = {
        "account": account,
        "form": form,
        "lines_max": LINES_MAX,
        "open_max": services.BATCHES_OPEN_MAX,
    }
    status = 422 if form.is_bound else 200
    return render(request, "inference/batch_new.html", context, status=status)


def _show_preview(request: HttpRequest, account: Account, form: BatchForm) -> HttpResponse:
    actor, said = actor_of(request), form.cleaned_data
    assert actor.user is not None
    version = selectors.find_version(actor, account, said["model"])
    upload = said["file"]
    file = files.store_file(account, upload.name, services.CONTENT_TYPE, upload, File.Purpose.BATCH)
    preview = batch_preview.preview_file(
        account=account, user=actor.user, version=version, file=file
    )
    if preview.fault:
        files.delete_file(file)
    start = {**{name: said[name] for name in ("model", "hours", "tag")}, "file": file.public_id}
    context = {
        "account": account,
        "version": version,
        "file": file,
        "preview": preview,
        "lines_shown": batch_preview.LINES_SHOWN,
        "form": StartForm(initial=start),
    }
    status = 422 if preview.fault else 200
    return render(request, "inference/batch_preview.html", context, status=status)


@login_required
@require_POST
@sent_once
def start(request: HttpRequest) -> HttpResponse:
    """Begin a batch with a file that was looked at."""
    account = requested_account(request, selectors.RIGHT)
    form = StartForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("Upload the file once more.")
    actor, said = actor_of(request), form.cleaned_data
    try:
        batch = services.create_batch(
            actor=actor,
            account=account,
            version=selectors.find_version(actor, account, said["model"]),
            file=selectors.access_file(account, said["file"]),
            tag=said["tag"],
            cancel_after=form.cancel_after,
        )
    except MarketplaceError as error:
        messages.error(request, error.detail)
        return redirect(f"{reverse('inference:batches')}?account={account.slug}")
    messages.success(request, "The batch has begun.")
    return redirect("inference:batch", batch.pk)


@login_required
@require_safe
def batch(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """One batch: how far it is, its first failed lines, and what may be done with it."""
    return render(request, "inference/batch.html", _describe(request, batch_id))


@panel_login_required
@require_safe
def batch_panel(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """The part of its page that moves."""
    return render(request, "inference/_batch.html", _describe(request, batch_id))


def _describe(request: HttpRequest, batch_id: UUID) -> dict[str, Any]:
    found = selectors.access_batch(actor_of(request), batch_id, selectors.RIGHT)
    faults = list(selectors.list_faults(found))
    progress = selectors.measure(found)
    return {
        "account": found.account,
        "batch": found,
        "progress": progress,
        "faults": faults,
        "faults_left": progress.failed - len(faults),
        "can_cancel": not found.is_over and found.state != Batch.State.CANCELING,
        "is_paused": found.state == Batch.State.PAUSED,
    }


@login_required
@require_POST
@sent_once
def do(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """Do what `do` names: cancel, resume or delete."""
    actor = actor_of(request)
    found = selectors.access_batch(actor, batch_id, selectors.RIGHT)
    wanted = request.POST.get("do", "")
    try:
        match wanted:
            case "cancel":
                services.cancel_batch(actor=actor, batch=found)
                messages.success(request, "What waits is canceled, and what runs is told to stop.")
            case "resume":
                services.resume_batch(actor=actor, batch=found)
                messages.success(request, "The batch goes on.")
            case "delete":
                services.delete_batch(actor=actor, batch=found)
                messages.success(request, "The batch and its results are deleted.")
                return redirect(f"{reverse('inference:batches')}?account={found.account.slug}")
            case _:
                raise InvalidInputError("There is nothing of that name to be done.")
    except (ConflictError, InvalidInputError) as error:
        messages.error(request, error.detail)
    return redirect("inference:batch", found.pk)


@login_required
@require_safe
def download(request: HttpRequest, batch_id: UUID, what: str) -> StreamingHttpResponse:
    """Output or errors as JSON Lines."""
    found = selectors.access_batch(actor_of(request), batch_id, selectors.RIGHT)
    lines = batch_results.read(found, what)
    answer = StreamingHttpResponse(lines, content_type=services.CONTENT_TYPE)
    answer["Content-Disposition"] = f'attachment; filename="batch-{found.pk}-{what}.jsonl"'
    answer["Cache-Control"] = "private, no-store"
    return answer
