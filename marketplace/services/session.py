"""Sessions: noted when they begin, listed, ended; and when the person last proved itself.

What a request needs to know stands in the session itself, so that no page asks the
database for it. The row of `UserSession` is for people: what is open, and where.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, cast

from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from marketplace.address import address_of
from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.models import User, UserSession
from marketplace.selectors.access import Actor
from marketplace.selectors.found import get_one
from marketplace.services import audit
from marketplace.services.security_notice import Kind, notify

# When the person last proved to sit there, and by which second factor, if by any.
CONFIRMED_KEY = "confirmed_at"
FACTOR_KEY = "factor"
_SEEN_KEY = "seen_at"
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def begin_session(*, request: HttpRequest, user: User, **_: Any) -> None:
    """Note that a session begins; a receiver, so that no way to sign in passes it by."""
    session = request.session
    now = int(time.time())
    session[CONFIRMED_KEY] = session[_SEEN_KEY] = now
    if session.session_key is None:
        session.save()
    device = _device_of(request)
    with transaction.atomic():
        earlier = UserSession.objects.filter(user=user)
        is_new = bool(device) and not earlier.filter(device=device).exists()
        if is_new and earlier.exists():
            what = f"{describe_agent(_agent_of(request))}, from {_place_of(request)}"
            notify(user, Kind.NEW_DEVICE, what)
            audit.record(Actor(user=user).label, "user.new_device", user, payload={"what": what})
        _write_row(request, user)


def connect() -> None:
    """Have Django say when somebody has signed in."""
    user_logged_in.connect(begin_session, dispatch_uid="marketplace.session")


def touch_session(request: HttpRequest, user: User) -> None:
    """Note that the session is in use, now and then."""
    now = int(time.time())
    if now - request.session.get(_SEEN_KEY, 0) < limits.SEEN_INTERVAL_S:
        return
    request.session[_SEEN_KEY] = now
    rows = UserSession.objects.filter(session_key=request.session.session_key)
    if not rows.update(last_seen_at=utc_now(), address=_place_of(request)):
        _write_row(request, user)


def confirm_session(session: SessionBase, *, factor: str = "") -> None:
    """Note that the person has just proved itself, also by a second factor if one is named."""
    session[CONFIRMED_KEY] = int(time.time())
    if factor:
        session[FACTOR_KEY] = factor


def is_confirmed(session: SessionBase) -> bool:
    """Whether the person proved itself a short while ago."""
    age_s = time.time() - session.get(CONFIRMED_KEY, 0)
    return -1 <= age_s < limits.CONFIRMED_LIFETIME_S


def list_sessions(user: User) -> QuerySet[UserSession]:
    """The open sessions of a person, the latest first."""
    open_keys = Session.objects.filter(expire_date__gt=timezone.now()).values("session_key")
    return user.sessions.filter(session_key__in=open_keys).order_by("-last_seen_at")


def end_session(*, user: User, session_id: Any) -> None:
    """End one of the person's own sessions; its next request is nobody's.

    Raises:
        NotFoundError: None of the person's open sessions.
    """
    found = get_one(list_sessions(user).filter(pk=session_id), "No such session.")
    _end([found.session_key], user)


def end_sessions(*, user: User, but: str | None = None) -> int:
    """End all sessions of a person, except that with the key `but`; returns how many."""
    keys = [one.session_key for one in list_sessions(user) if one.session_key != but]
    _end(keys, user)
    return len(keys)


def drop_sessions(*, user: User) -> int:
    """End all sessions of a person whom the platform takes out; the caller records it."""
    keys = list(user.sessions.values_list("session_key", flat=True))
    Session.objects.filter(session_key__in=keys).delete()
    return user.sessions.all().delete()[0]


def follow_session(*, user: User, before: str | None, after: str | None) -> None:
    """The session goes on under another key."""
    if before and after and before != after:
        UserSession.objects.filter(user=user, session_key=before).update(session_key=after)


def forget_sessions() -> None:
    """Delete what has ended, and devices that were not seen for long."""
    Session.objects.filter(expire_date__lt=timezone.now()).delete()
    UserSession.objects.filter(last_seen_at__lt=utc_now() - limits.SESSION_MEMORY).delete()


def describe_agent(text: str) -> str:
    """Browser and system, as people call them; a guess from what the browser says."""
    # Each also names those below it, so the order counts.
    browser = next((name for mark, name in _BROWSERS if mark in text), "")
    system = next((name for mark, name in _SYSTEMS if mark in text), "")
    return " on ".join(part for part in (browser, system) if part) or "an unknown browser"


def _end(keys: list[str], user: User) -> None:
    if not keys:
        return
    with transaction.atomic():
        Session.objects.filter(session_key__in=keys).delete()
        audit.record(
            Actor(user=user).label, "user.end_session", user, payload={"sessions": len(keys)}
        )


def _write_row(request: HttpRequest, user: User) -> None:
    UserSession.objects.update_or_create(
        session_key=cast("str", request.session.session_key),
        defaults={
            "user": user,
            "device": _device_of(request),
            "user_agent": _agent_of(request),
            "address": _place_of(request),
            "last_seen_at": utc_now(),
        },
    )


def _device_of(request: HttpRequest) -> str:
    device_id: str = getattr(request, "device_id", "")
    return hashlib.sha256(device_id.encode()).hexdigest() if device_id else ""


def _agent_of(request: HttpRequest) -> str:
    return request.META.get("HTTP_USER_AGENT", "").replace("\x00", "")[:300]


def _place_of(request: HttpRequest) -> str:
    return address_of(request)[:45]
