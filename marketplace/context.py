"""Who looks at a page and for which account; and what every template knows.

A person may belong to several accounts. Pages show one at a time: the one in the session,
chosen in the menu. It is a convenience, never a right: rights are checked on each access.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from marketplace.models import Account, Membership, User
from marketplace.selectors.access import ANONYMOUS, Actor, access_account
from marketplace.selectors.account import list_memberships as memberships_of
from marketplace.selectors.account import own_first
from marketplace.selectors.notification import Inbox, count_unread

SESSION_KEY = "account"
# Read by every page, so that the first paint has the right colours.
THEME_COOKIE = "theme"
THEMES = ("light", "dark")


def actor_of(request: HttpRequest) -> Actor:
    """The actor of a page's request."""
    return Actor(user=request.user) if isinstance(request.user, User) else ANONYMOUS


def list_memberships(request: HttpRequest) -> list[Membership]:
    """The person's memberships with their accounts, by name; asked once per request."""
    if not isinstance(request.user, User):
        return []
    cached: list[Membership] | None = getattr(request, "_memberships", None)
    if cached is None:
        cached = list(memberships_of(actor_of(request)))
        request._memberships = cached  # type: ignore[attr-defined]  # noqa: SLF001
    return cached


def current_membership(request: HttpRequest) -> Membership | None:
    """The membership in the account that the person chose, else in its own."""
    memberships = list_memberships(request)
    chosen = request.session.get(SESSION_KEY)
    fallback = sorted(memberships, key=own_first)[:1]
    found = [one for one in memberships if one.account.slug == chosen] or fallback
    return found[0] if found else None


def current_account(request: HttpRequest) -> Account | None:
    """The account that pages show; None for a person without any."""
    membership = current_membership(request)
    return membership.account if membership else None


def requested_account(request: HttpRequest, right: str = "read") -> Account:
    """The account that `?account=` names, else the current one; the right is checked.

    A page that names an account makes it the current one, so that menu and links agree with
    it. Panels do not: one that polls must not switch the page in another tab.

    Raises:
        NotFoundError: Not the person's account, or none at all.
        ForbiddenError: The person lacks the right on it.
    """
    current = current_account(request)
    slug = request.GET.get("account") or (current.slug if current else "")
    account = access_account(actor_of(request), slug, right)
    is_page = not request.htmx  # type: ignore[attr-defined]
    if is_page and current is not None and account.pk != current.pk:
        request.session[SESSION_KEY] = account.slug
    return account


def inbox_of(request: HttpRequest) -> Inbox:
    """The person's inbox in the account that pages show."""
    assert isinstance(request.user, User)
    return Inbox(request.user, current_membership(request))


def count_unread_of(request: HttpRequest) -> int:
    """How much of that inbox is unread; asked once per request."""
    cached: int | None = getattr(request, "_unread", None)
    if cached is None:
        cached = count_unread(inbox_of(request))
        request._unread = cached  # type: ignore[attr-defined]  # noqa: SLF001
    return cached


def requested_inbox(request: HttpRequest) -> Inbox:
    """The person's inbox in the account that `?account=` names, else in the current one.

    Raises:
        NotFoundError: Not the person's account.
    """
    if "account" not in request.GET and current_account(request) is None:
        return inbox_of(request)
    account = requested_account(request)
    found = [one for one in list_memberships(request) if one.account_id == account.pk]
    assert isinstance(request.user, User)
    return Inbox(request.user, found[0] if found else None)


def site(request: HttpRequest) -> dict[str, Any]:
    """Addresses, whether this is development, and the person's accounts."""
    return {
        "gateway_url": settings.GATEWAY_URL,
        "development": settings.DEVELOPMENT,
        "theme": theme if (theme := request.COOKIES.get(THEME_COOKIE)) in THEMES else "",
        "memberships": SimpleLazyObject(lambda: list_memberships(request)),
        "current_membership": SimpleLazyObject(lambda: current_membership(request)),
        "current_account": SimpleLazyObject(lambda: current_account(request)),
    }
