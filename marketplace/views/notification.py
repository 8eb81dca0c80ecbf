"""A person's inbox: what happened, what of it was read, and what it wants to be told."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from marketplace.context import count_unread_of, requested_inbox
from marketplace.core.errors import InvalidInputError
from marketplace.forms.notification import InboxForm, MarkForm, PreferencesForm
from marketplace.selectors.notification import Choice, Inbox, get_page
from marketplace.services import notification as services
from marketplace.toast import add_undoable


@login_required
@require_safe
def notifications(request: HttpRequest) -> HttpResponse:
    """What the person was told in an account and about itself, newest first."""
    inbox = requested_inbox(request)
    form = InboxForm(request.GET, inbox=inbox)
    is_valid = form.is_valid()
    chosen = form.choice if is_valid else Choice()
    before = request.GET.get("before", "")
    context = {
        "inbox": inbox,
        "form": form,
        "chosen": chosen,
        "is_chosen": chosen != Choice(),
        "page": get_page(inbox, chosen, before=before),
        "unread": count_unread_of(request),
        "is_first": not before,
        "older_query": _older_query(inbox, chosen),
    }
    status = 200 if is_valid else 422
    return render(request, "marketplace/notifications.html", context, status=status)


@require_safe
def bell(request: HttpRequest) -> HttpResponse:
    """The bell of the header, asked for now and then while somebody sees the page.

    Whoever is not signed in any more gets nothing: a page that only stands open leads nobody
    away from what it shows.
    """
    if not request.user.is_authenticated:
        return HttpResponse(status=204)
    return render(request, "components/bell.html", {"unread": count_unread_of(request)})


@login_required
@require_POST
def mark(request: HttpRequest) -> HttpResponse:
    """Mark a line, or all of them, as read or unread; the message has an undo."""
    inbox = requested_inbox(request)
    form = MarkForm(request.POST)
    if not form.is_valid():
        raise InvalidInputError("This cannot be marked.")
    cleaned = form.cleaned_data
    if cleaned["to"] == "before":
        count = services.unmark(inbox, moment=_read_moment(cleaned["moment"]))
        messages.success(request, f"{_count(count)} unread again.")
        return redirect(_address(inbox))
    is_read = cleaned["to"] == "read"
    ids = [cleaned["id"]] if cleaned["id"] else None
    if ids is None and not is_read:
        raise InvalidInputError("Only a single line becomes unread.")
    count, moment = services.mark(inbox, ids=ids, kind=cleaned["kind"], is_read=is_read)
    if "quietly" in request.POST:
        return HttpResponse(status=204)
    _say(request, inbox, count, moment, cleaned)
    return redirect(_address(inbox, request.GET))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    """Which kinds arrive in the inbox, and which by mail."""
    inbox = requested_inbox(request)
    form = PreferencesForm(request.POST or None, inbox=inbox)
    if request.method == "POST" and form.is_valid():
        services.set_preferences(inbox, form.choices)
        messages.success(request, "Saved.")
        return redirect(_address(inbox, name="notification-preferences"))
    context = {"inbox": inbox, "form": form}
    return render(request, "marketplace/notification_preferences.html", context)


def _say(
    request: HttpRequest, inbox: Inbox, count: int, moment: datetime, marked: dict[str, Any]
) -> None:
    if not count:
        messages.info(request, "Nothing to mark.")
        return
    if marked["to"] == "read":
        fields = {"to": "before", "moment": moment.isoformat()}
    else:
        fields = {"to": "read", "id": marked["id"]}
    url = _address(inbox, name="notification-mark")
    add_undoable(request, f"{_count(count)} marked {marked['to']}.", url=url, fields=fields)


def _count(count: int) -> str:
    return f"{count} notification{'' if count == 1 else 's'}"


def _read_moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInputError("This is no moment.")
    return moment


def _address(
    inbox: Inbox, query: dict[str, Any] | None = None, *, name: str = "notifications"
) -> str:
    """The page with what was chosen on it."""
    kept = {key: query[key] for key in ("show", "kind") if query.get(key)} if query else {}
    if inbox.account is not None:
        kept = {"account": inbox.account.slug, **kept}
    return f"{reverse(f'marketplace:{name}')}?{urlencode(kept)}".rstrip("?")


def _older_query(inbox: Inbox, chosen: Choice) -> str:
    query = {"account": inbox.account.slug} if inbox.account else {}
    if chosen.is_unread:
        query["show"] = "unread"
    if chosen.kind:
        query["kind"] = chosen.kind
    return urlencode(query)
