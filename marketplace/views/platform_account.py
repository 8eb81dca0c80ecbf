"""Accounts and people, for platform admins: search, suspend, restore, block, see as."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace import see_as
from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.forms.platform import SUSPENSIONS, DeedForm, SearchForm
from marketplace.models import Account, APIKey, Impersonation, User
from marketplace.selectors import platform as selectors
from marketplace.selectors.account import list_events, list_members
from marketplace.selectors.account_deletion import find_open
from marketplace.selectors.catalog import list_models
from marketplace.selectors.impersonation import may_be_seen_as
from marketplace.services import account as accounts_service
from marketplace.services import impersonation
from marketplace.services.consequence import foretell_account
from marketplace.services.person import set_blocked
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, ask_or_do, platform_admin_required

EVENTS_SHOWN = 20
ROWS_SHOWN = 50


@platform_admin_required
@require_safe
def accounts(request: HttpRequest) -> HttpResponse:
    """All accounts, or those that a search finds."""
    form = SearchForm(request.GET or None)
    query = form.cleaned_data["q"] if form.is_valid() else ""
    context = {
        "form": form,
        "query": query,
        "page": page_of(request, selectors.search_accounts(query), PAGE_SIZE),
    }
    status = 422 if form.is_bound and form.errors else 200
    return render(request, "marketplace/platform/accounts.html", context, status=status)


@platform_admin_required
@require_safe
def account(request: HttpRequest, slug: str) -> HttpResponse:
    """One account: people, models, what happened, and what can be done."""
    found = selectors.get_account(slug)
    members = list_members(found)
    context = {
        "account": found,
        "members": [(one, may_be_seen_as(one.user)) for one in members[:ROWS_SHOWN]],
        "member_count": members.count(),
        "models": list(list_models(found)[:ROWS_SHOWN]),
        "model_count": found.models.count(),
        "key_count": APIKey.objects.filter(account=found, revoked_at=None).count(),
        "events": list(list_events(found)[:EVENTS_SHOWN]),
        "deletion": find_open(found) if found.closes_at else None,
    }
    return render(request, "marketplace/platform/account.html", context)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def suspend(request: HttpRequest, slug: str) -> HttpResponse:
    """Say what suspending it stops; POST does it."""
    found = selectors.get_account(slug)

    def do(reason: str) -> HttpResponse:
        accounts_service.suspend_account(actor=actor_of(request), account=found, reason=reason)
        undo = reverse("marketplace:account-restore", args=[slug])
        told = format_html('{} is suspended. <a href="{}">Undo …</a>', found.slug, undo)
        messages.success(request, told)
        return redirect("marketplace:platform-account", slug)

    return ask_or_do(
        request,
        do=do,
        title=f"Suspend {found.slug}",
        button="Suspend the account",
        back=_page(found),
        consequences=foretell_account(found),
        lede="Its owners get a mail with the reason. It can be undone at any time.",
        form=DeedForm(request.POST or None, templates=SUSPENSIONS),
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def restore(request: HttpRequest, slug: str) -> HttpResponse:
    """Ask why; POST lets the account act again."""
    found = selectors.get_account(slug)

    def do(reason: str) -> HttpResponse:
        accounts_service.unsuspend_account(actor=actor_of(request), account=found, reason=reason)
        messages.success(request, f"{found.slug} is not suspended any more.")
        return redirect("marketplace:platform-account", slug)

    return ask_or_do(
        request,
        do=do,
        title=f"Restore {found.slug}",
        button="Lift the suspension",
        back=_page(found),
        consequences=[
            "Its keys work again within seconds.",
            "Versions that a channel names are loaded again; that takes as long as a cold start.",
        ],
        lede="Its owners get a mail with the reason.",
        is_harm=False,
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def block(request: HttpRequest, person_id: UUID) -> HttpResponse:
    """Keep a person from signing in, or let it in again."""
    person = selectors.get_person(person_id)
    is_blocked = person.is_active

    def do(reason: str) -> HttpResponse:
        set_blocked(actor=actor_of(request), person=person, is_blocked=is_blocked, reason=reason)
        word = "is blocked" if is_blocked else "can sign in again"
        messages.success(request, f"{person.email} {word}.")
        return redirect(_page_of(person))

    consequences = [
        "All sessions end with their next request.",
        "Tokens that the person made stop working; keys of accounts go on.",
    ]
    return ask_or_do(
        request,
        do=do,
        title=f"Block {person.email}" if is_blocked else f"Let {person.email} in again",
        button="Block" if is_blocked else "Let in again",
        back=_page_of(person),
        consequences=consequences if is_blocked else ["The person can sign in again."],
        lede="The person gets a mail with the reason.",
        is_harm=is_blocked,
    )


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def see_as_begin(request: HttpRequest, person_id: UUID) -> HttpResponse:
    """Ask why, say it once more what it means, and then show the site as this person."""
    person = selectors.get_person(person_id)
    if not may_be_seen_as(person):
        raise NotFoundError("Nobody sees the site as a platform admin, or as who is blocked.")
    minutes = int(limits.IMPERSONATION_LIFETIME.total_seconds() // 60)
    consequences = [
        "You see everything that the person sees, and can change nothing.",
        f"It ends by itself after {minutes} minutes.",
        "Each page that you look at is written into the audit log, with your name.",
        "The owners of the person's accounts see that it happened, and your reason.",
    ]
    is_second = request.POST.get("confirmed") == "yes"
    if request.method == "POST" and not is_second:
        form = DeedForm(request.POST)
        if form.is_valid():
            context = {
                "person": person,
                "reason": form.cleaned_data["reason"],
                "consequences": consequences,
                "back": _page_of(person),
            }
            return render(request, "marketplace/platform/see_as_confirm.html", context)

    def do(reason: str) -> HttpResponse:
        running = impersonation.begin(actor=actor_of(request), person=person, reason=reason)
        see_as.start(request, running)
        return redirect("marketplace:home")

    return ask_or_do(
        request,
        do=do,
        title=f"See the site as {person.email}",
        button="Go on …" if not is_second else "See as this person",
        back=_page_of(person),
        consequences=consequences,
    )


@require_POST
def see_as_stop(request: HttpRequest) -> HttpResponse:
    """Be oneself again. The one address that can be posted to meanwhile."""
    running = see_as.find_impersonation(request)
    if running is None:
        raise NotFoundError
    impersonation.end(running=running, end=Impersonation.End.STOPPED)
    see_as.forget(request)
    messages.info(request, "You are yourself again.")
    return redirect(_page_of(running.person))


def _page(account: Account) -> str:
    return reverse("marketplace:platform-account", args=[account.slug])


def _page_of(person: User) -> str:
    own = person.memberships.select_related("account").order_by("created_at").first()
    return _page(own.account) if own is not None else resolve_url("marketplace:accounts")
