"""Sessions: seen, ended, and no longer than the person may sign in."""

from __future__ import annotations

import pytest
import time_machine
from django.contrib.auth import get_user
from django.contrib.sessions.models import Session
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from marketplace.core import limits
from marketplace.models import AuditEvent, SecurityNotice, User, UserSession
from marketplace.services import security_notice
from marketplace.services.session import describe_agent, forget_sessions
from marketplace.tasks import forget_sessions as forget_task
from marketplace.tasks import mail_security_notices
from tests.factories import PASSWORD, UserFactory

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


def sign_in(user: User, agent: str = FIREFOX, **extra: str) -> Client:
    client = Client(HTTP_USER_AGENT=agent, **extra)
    body = {"email": user.email, "password": PASSWORD}
    assert client.post("/login", body).status_code == 302
    return client


def is_signed_in(client: Client) -> bool:
    return get_user(client).is_authenticated


def test_the_page_lists_where_one_is_signed_in(owner, account):
    here = sign_in(owner)
    sign_in(owner, SAFARI, REMOTE_ADDR="203.0.113.7")

    page = here.get("/profile/security")

    shown = [(one["name"], one["row"].address, one["is_here"]) for one in page.context["sessions"]]
    assert set(shown) == {
        ("Firefox on Linux", "127.0.0.1", True),
        ("Safari on iPhone", "203.0.113.7", False),
    }
    assert "no-store" in page["Cache-Control"]


def test_another_session_is_ended_at_once(owner, account):
    here, there = sign_in(owner), sign_in(owner, SAFARI)
    row = UserSession.objects.get(session_key=there.session.session_key)

    assert here.post(f"/profile/security/sessions/{row.pk}/end").status_code == 302

    assert not is_signed_in(there)
    assert there.get("/console").url.startswith("/login?next=")
    assert is_signed_in(here)
    event = AuditEvent.objects.get(action="user.end_session")
    assert event.payload == {"sessions": 1}


def test_all_others_are_ended(owner, account):
    here, *others = [sign_in(owner) for _ in range(3)]

    here.post("/profile/security/sessions/end")

    assert [is_signed_in(one) for one in (here, *others)] == [True, False, False]


def test_anothers_session_is_not_found(owner, outsider, teammate):
    session = sign_in(owner)
    row = UserSession.objects.get()

    for stranger in (sign_in(outsider), sign_in(teammate)):
        assert stranger.post(f"/profile/security/sessions/{row.pk}/end").status_code == 404
        stranger.post("/profile/security/sessions/end")
    assert is_signed_in(session)


def test_a_new_password_ends_the_others(owner, account):
    here, there = sign_in(owner), sign_in(owner, SAFARI)
    key = here.session.session_key
    form = {"form": "password", "current": PASSWORD, "password": "another pass phrase"}

    assert here.post("/profile", form).status_code == 302

    assert is_signed_in(here)
    assert not is_signed_in(there)
    # The one that stays goes on under another key, and is listed as this one.
    assert here.session.session_key != key
    assert [one["is_here"] for one in here.get("/profile/security").context["sessions"]] == [True]
    assert SecurityNotice.objects.filter(kind="password").count() == 1


def test_who_is_suspended_is_out_with_the_next_request(owner, account):
    session = sign_in(owner)
    assert session.get("/console").status_code == 200

    User.objects.filter(pk=owner.pk).update(is_active=False)

    assert session.get("/console").status_code == 302
    assert not is_signed_in(session)


def test_signing_out_ends_the_session_for_everybody_who_has_its_key(owner):
    session = sign_in(owner)
    copy = Client()
    copy.cookies["sessionid"] = session.session.session_key
    assert is_signed_in(copy)

    session.post("/log-out")

    assert not is_signed_in(copy)


def test_signing_in_changes_the_key(owner):
    client = Client()
    client.post("/login/passkey/options")
    planted = client.session.session_key
    client.post("/login", {"email": owner.email, "password": PASSWORD})

    assert client.session.session_key != planted
    assert not Session.objects.filter(session_key=planted).exists()


def test_use_is_noted_now_and_then(owner, account, django_assert_num_queries):
    session = sign_in(owner)
    before = UserSession.objects.get().last_seen_at
    session.get("/profile")
    assert UserSession.objects.get().last_seen_at == before

    later = timezone.now() + timezone.timedelta(seconds=limits.SEEN_INTERVAL_S)
    with time_machine.travel(later):
        session.get("/profile", REMOTE_ADDR="203.0.113.9")

    row = UserSession.objects.get()
    assert row.last_seen_at > before
    assert row.address == "203.0.113.9"


def test_a_session_that_nobody_noted_is_noted_when_it_is_used(owner, account):
    session = sign_in(owner)
    UserSession.objects.all().delete()
    later = timezone.now() + timezone.timedelta(seconds=limits.SEEN_INTERVAL_S)
    with time_machine.travel(later):
        session.get("/profile")

    assert UserSession.objects.get().session_key == session.session.session_key


# --- devices ---


def test_a_new_device_is_told_and_a_known_one_is_not(owner):
    first = sign_in(owner)
    assert SecurityNotice.objects.count() == 0
    first.post("/log-out")
    first.post("/login", {"email": owner.email, "password": PASSWORD})
    assert SecurityNotice.objects.count() == 0

    sign_in(owner, SAFARI, REMOTE_ADDR="203.0.113.7")

    told = SecurityNotice.objects.get()
    assert (told.kind, told.what) == ("new_device", "Safari on iPhone, from 203.0.113.7")
    assert AuditEvent.objects.get(action="user.new_device").payload == {"what": told.what}


def test_a_device_is_known_to_one_person_only(owner, outsider):
    browser = sign_in(owner)
    sign_in(outsider)
    browser.post("/log-out")
    browser.post("/login", {"email": outsider.email, "password": PASSWORD})

    assert SecurityNotice.objects.get().user == outsider


def test_the_cookie_of_the_device_is_out_of_reach(owner, client):
    client.get("/login")
    assert "device" not in client.cookies
    browser = sign_in(owner)
    cookie = browser.cookies["device"]

    assert (cookie["httponly"], cookie["samesite"], len(cookie.value)) == (True, "Lax", 32)
    assert cookie.value not in UserSession.objects.get().device


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        (SAFARI, "Safari on iPhone"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/150.0 Safari/537.36 Edg/150.0", "Edge on Windows"),
        ("curl/8.9", "an unknown browser"),
        ("", "an unknown browser"),
    ],
)
def test_browsers_are_named_as_people_name_them(text, name):
    assert describe_agent(text) == name


def test_a_browser_may_say_anything_of_itself(owner):
    sign_in(owner, "<script>" * 100, HTTP_X_FORWARDED_FOR="a" * 5_000)

    assert len(UserSession.objects.get().user_agent) == 300


# --- notices ---


def test_a_notice_is_mailed_once(owner):
    sign_in(owner)
    sign_in(owner, SAFARI)

    mail_security_notices()
    mail_security_notices()

    (sent,) = mail.outbox
    assert sent.to == [owner.email]
    assert sent.subject == "Strongroom: somebody signed in on a new device"
    assert "Safari on iPhone, from 127.0.0.1" in sent.body
    assert "/password-reset" in sent.body


def test_a_mail_that_does_not_go_is_tried_again(owner, monkeypatch):
    sign_in(owner)
    sign_in(owner, SAFARI)

    def fail(*args: object) -> None:
        raise OSError("no mail server")

    with monkeypatch.context() as patch:
        patch.setattr(security_notice, "send_mail", fail)
        assert security_notice.mail_notices() == 0
    assert SecurityNotice.objects.get().mailed_at is None
    assert security_notice.mail_notices() == 1


def test_what_is_over_is_forgotten(owner):
    with time_machine.travel(timezone.now() - limits.SESSION_MEMORY - timezone.timedelta(days=1)):
        sign_in(owner)
        sign_in(owner, SAFARI)
        security_notice.mail_notices()
    fresh = sign_in(owner)
    assert (UserSession.objects.count(), Session.objects.count()) == (3, 3)

    forget_task()

    assert UserSession.objects.get().session_key == fresh.session.session_key
    assert Session.objects.count() == 1
    assert list(SecurityNotice.objects.values_list("mailed_at", flat=True)) == [None]
    forget_sessions()
    assert is_signed_in(fresh)


def test_a_public_page_asks_nothing_of_a_session(client, db, settings, django_assert_num_queries):
    settings.PLATFORM_CACHE_S = 60  # Announcements are for everybody.
    UserFactory()
    client.get("/login")
    with django_assert_num_queries(0):
        client.get("/login")
