"""Files in the console: listed, put up, fetched and deleted."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from inference.models.file import ACCOUNT_FILE_BYTES_MAX, ACCOUNT_FILES_MAX, FILE_BYTES_MAX
from inference.selectors import file as selectors
from inference.services import file as services
from marketplace.context import actor_of, requested_account
from marketplace.selectors.access import has_right


@login_required
@require_safe
def files(request: HttpRequest) -> HttpResponse:
    """An account's files, newest first, and a place to put one up."""
    actor, account = actor_of(request), requested_account(request)
    rows, before = selectors.list_files(account, before=request.GET.get("before", ""))
    count, size_bytes = selectors.measure_files(account)
    context = {
        "account": account,
        "files": rows,
        "next_before": before,
        "is_first": not request.GET.get("before"),
        "can_write": has_right(actor, account, selectors.WRITE_RIGHTS[0]),
        "count": count,
        "count_max": ACCOUNT_FILES_MAX,
        "size_bytes": size_bytes,
        "size_bytes_max": ACCOUNT_FILE_BYTES_MAX,
        "file_bytes_max": FILE_BYTES_MAX,
    }
    return render(request, "inference/files.html", context)


@login_required
@require_POST
def delete(request: HttpRequest, file_id: str) -> HttpResponse:
    """Delete a file for good."""
    actor = actor_of(request)
    file = selectors.access_file(actor, file_id, selectors.WRITE_RIGHTS)
    services.delete_upload(actor=actor, file=file)
    messages.success(request, f"{file.name} is deleted.")
    return redirect(f"{reverse('inference:files')}?account={file.account.slug}")
