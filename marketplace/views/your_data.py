"""An account's data: take it along, or have it deleted; and a person's own end."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.errors import ConflictError, InvalidInputError, LimitExceededError
from marketplace.forms.deletion import DeletionForm, PersonDeletionForm
from marketplace.forms.platform import DeedForm
from marketplace.forms.problem import add_problem
from marketplace.models import DataExport, User
from marketplace.selectors import platform as platform_selectors
from marketplace.selectors.access import access_account, has_right
from marketplace.selectors.account_deletion import find_open
from marketplace.selectors.data_export import get_export, list_exports
from marketplace.services import account_deletion, closing, data_export, erasure
from marketplace.services.exporter import list_exporters
from marketplace.views.confirm import needs_confirmation
from marketplace.views.platform import ask_or_do, platform_admin_required


@login_required
@require_http_methods(["GET", "POST"])
@needs_confirmation("POST")
def data(request: HttpRequest, slug: str) -> HttpResponse:
    """The archives of an account's data; POST asks for another."""
    actor = actor_of(request)
    account = access_account(actor, slug)
    if request.method == "POST":
        access_account(actor, slug, "members")
        try:
            data_export.request_export(actor=actor, account=account)
        except (ConflictError, LimitExceededError) as error:
            messages.error(request, error.detail)
        else:
            messages.success(request, "The archive is being made. You get a mail when it is ready.")
        return redirect("marketplace:account-data", slug)
    can_export = has_right(actor, account, "members")
    lines = list_exports(account) if can_export else []
    context = {
        "account": account,
        "can_export": can_export,
        "lines": lines,
        "is_running": any(one.export.state == DataExport.State.RUNNING for one in lines),
        "exporters": list(list_exporters().values()),
        "days": limits.EXPORT_LIFETIME.days,
        "per_day": limits.EXPORTS_PER_DAY_MAX,
        "deletion": find_open(account),
        "can_delete": has_right(actor, account, "account"),
    }
    return render(request, "marketplace/account_data.html", context)


@login_required
@require_safe
def data_panel(request: HttpRequest, slug: str) -> HttpResponse:
    """The list of archives, which looks again while one is being made."""
    account = access_account(actor_of(request), slug, "members")
    lines = list_exports(account)
    context = {
        "account": account,
        "lines": lines,
        "is_running": any(one.export.state == DataExport.State.RUNNING for one in lines),
    }
    return render(request, "marketplace/_exports.html", context)


@login_required
@never_cache
@require_POST
@needs_confirmation()
def data_download(request: HttpRequest, slug: str, export_id: UUID) -> HttpResponse:
    """An archive, as it was made. By POST: what leads here is logged, and asks for a proof."""
    actor = actor_of(request)
    account = access_account(actor, slug, "members")
    export = get_export(account, export_id)
    chunks = data_export.download(actor=actor, export=export)
    response = StreamingHttpResponse(chunks, content_type="application/zip")
    name = f"{account.slug}-{export.created_at:%Y%m%d}.zip"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Content-Length"] = str(export.size_bytes)
    response["Cache-Control"] = "no-store, private"
    # Django tells streams and other answers apart; our guards do not.
    return cast("HttpResponse", response)


@login_required
@require_http_methods(["GET", "POST"])
@needs_confirmation("POST")
def delete(request: HttpRequest, slug: str) -> HttpResponse:
    """Say what deleting the account does and what stands in the way; POST asks for it."""
    actor = actor_of(request)
    account = access_account(actor, slug, "account")
    form = DeletionForm(request.POST or None, account=account)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                account_deletion.request_deletion(actor=actor, account=account, **form.cleaned_data)
            except (ConflictError, InvalidInputError) as error:
                add_problem(form, error)
                status = error.http_status
            else:
                messages.success(request, f"{slug} will be deleted. You can cancel it until then.")
                return redirect("marketplace:account-delete", slug)
    deletion = find_open(account)
    context = {
        "account": account,
        "form": form,
        "deletion": deletion,
        "steps": list(deletion.steps.all()) if deletion else [],
        "step_names": closing.STEPS,
        "facts": closing.list_facts(account),
        "obstacles": closing.list_obstacles(account) if deletion is None else [],
        "days": limits.DELETION_GRACE.days,
    }
    return render(request, "marketplace/account_delete.html", context, status=status)


@login_required
@require_POST
def delete_cancel(request: HttpRequest, slug: str) -> HttpResponse:
    """Keep the account. Never asks for a proof: it is the emergency brake."""
    actor = actor_of(request)
    account = access_account(actor, slug, "account")
    try:
        account_deletion.cancel_deletion(actor=actor, account=account)
    except ConflictError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, f"{slug} stays.")
    return redirect("marketplace:account-delete", slug)


@login_required
@require_http_methods(["GET", "POST"])
@needs_confirmation("POST")
def person_delete(request: HttpRequest) -> HttpResponse:
    """Say what deleting oneself does and what stands in the way; POST does it."""
    assert isinstance(request.user, User)
    user = request.user
    form = PersonDeletionForm(request.POST or None)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid() and form.cleaned_data["email"].strip().lower() != user.email:
            form.add_error("email", f"Type {user.email} to say that you mean it.")
        elif form.is_valid():
            try:
                erasure.erase_person(user=user)
            except ConflictError as error:
                add_problem(form, error)
                status = error.http_status
            else:
                logout(request)
                messages.success(request, "You are deleted, and signed out.")
                return redirect("marketplace:catalogue")
    context = {"form": form, "obstacles": erasure.list_obstacles(user)}
    return render(request, "marketplace/person_delete.html", context, status=status)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def deletion_stop(request: HttpRequest, slug: str) -> HttpResponse:
    """Ask why; POST keeps an account that its owners want to delete."""
    found = platform_selectors.get_account(slug)

    def do(reason: str) -> HttpResponse:
        account_deletion.stop_deletion(actor=actor_of(request), account=found, reason=reason)
        messages.success(request, f"{found.slug} is not deleted.")
        return redirect("marketplace:platform-account", slug)

    return ask_or_do(
        request,
        do=do,
        title=f"Stop the deletion of {found.slug}",
        button="Keep the account",
        back=request.path.removesuffix("/keep"),
        consequences=["Its owners can ask for it again."],
        lede="Its owners get a mail with the reason.",
        form=DeedForm(request.POST or None),
        is_harm=False,
    )
