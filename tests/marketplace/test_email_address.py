"""Addresses: confirmed by who reads their mail, changed by both."""

from __future__ import annotations

import re
import time

import pytest
import time_machine
from django.core import mail
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from marketplace.core import limits
from marketplace.models import APIKey, AuditEvent, SecurityNotice, User
from marketplace.selectors.access import Actor
from marketplace.services import email_address, key
from marketplace.services.security_notice import mail_notices
from tests.factories import PASSWORD, AIModelFactory, UserFactory

NEW = {"email": "new@example.com", "slug": "newcomer", "password": PASSWORD}


@pytest.fixture(autouse=True)
def _no_tries_counted(settings) -> None:
    cache.clear()
    settings.REQUIRE_VERIFIED_EMAIL = True


def link_of(message) -> str:
    return re.search(r"http://\S+?(/profile/email/\S+)", message.body)[1]


@pytest.fixture
def newcomer(db) -> Client:
    client = Client()
    assert client.post("/sign-up", NEW).status_code == 302
    return client


# --- confirming ---


def test_signing_up_mails_a_link_that_confirms(newcomer):
    (sent,) = mail.outbox
    assert sent.to == ["new@example.com"]
    assert User.objects.get().email_verified_at is None
    page = newcomer.get("/profile/security").content.decode()
    assert "Not confirmed" in page

    # Looking at the link is what programs do that look at mail: it changes nothing.
    assert "This address is mine" in newcomer.get(link_of(sent)).content.decode()
    assert User.objects.get().email_verified_at is None
    assert newcomer.post(link_of(sent)).url == "/profile/security"

    assert User.objects.get().email_verified_at is not None
    assert AuditEvent.objects.filter(action="user.confirm_email").count() == 1
    assert "Not confirmed" not in newcomer.get("/profile/security").content.decode()


def test_the_link_works_in_another_browser_too(newcomer):
    assert Client().post(link_of(mail.outbox[0])).url == "/login"
    assert User.objects.get().email_verified_at is not None


def test_a_link_works_for_three_days(newcomer):
    link = link_of(mail.outbox[0])
    with time_machine.travel(time.time() + limits.CONFIRM_LINK_LIFETIME_S - 5):
        assert newcomer.get(link).status_code == 200
    with time_machine.travel(time.time() + limits.CONFIRM_LINK_LIFETIME_S + 5):
        for answer in (newcomer.get(link), newcomer.post(link)):
            assert answer.status_code == 422
            assert "does not work any more" in answer.content.decode()
    assert User.objects.get().email_verified_at is None


@pytest.mark.parametrize("token", ["x", "a:b:c", "A" * 2_000, "%00", "W10:1:2"])
def test_a_forged_link_does_nothing(newcomer, token):
    assert newcomer.post(f"/profile/email/{token}").status_code in (400, 422)
    assert User.objects.get().email_verified_at is None


def test_a_new_password_ends_the_links_of_before(newcomer):
    link = link_of(mail.outbox[0])
    user = User.objects.get()
    user.set_password("something else entirely")
    user.save()

    assert Client().post(link).status_code == 422


def test_mails_are_sent_again_so_often_and_no_more(newcomer):
    answers = [
        newcomer.post("/profile/email/resend").status_code for _ in range(limits.CONFIRM_MAILS_MAX)
    ]

    assert answers == [302] * (limits.CONFIRM_MAILS_MAX - 1) + [429]
    assert len(mail.outbox) == limits.CONFIRM_MAILS_MAX
    newcomer.post(link_of(mail.outbox[-1]))
    newcomer.post("/profile/email/resend")
    assert len(mail.outbox) == limits.CONFIRM_MAILS_MAX


def test_signing_up_works_while_no_mail_goes(db, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError("no mail server")

    monkeypatch.setattr(email_address, "send_mail", fail)
    client = Client()

    assert client.post("/sign-up", NEW).status_code == 302
    page = client.post("/profile/email/resend", follow=True).content.decode()
    assert "could not be sent" in page


# --- what waits for it ---


def unverified_call(client: Client, what: str):
    if what == "live key":
        return client.post("/console/keys/new", {"name": "x", "mode": "live"})
    if what == "token":
        return client.post("/console/keys/new", {"name": "x", "mode": "token"})
    if what == "login token":
        body = {"email": NEW["email"], "password": PASSWORD, "token_name": "x"}
        return APIClient().post("/api/login", body, format="json")
    form = {"name": "digits", "title": "Digits", "visibility": "private"}
    return client.post("/dashboard/models/new", form)


WAITING = ["live key", "token", "login token", "model"]


@pytest.mark.parametrize("what", WAITING)
def test_before_that_nobody_sells_or_runs(newcomer, what):
    answer = unverified_call(newcomer, what)

    assert answer.status_code in (403, 422)
    assert "Confirm your e-mail address first" in answer.content.decode()
    assert APIKey.objects.count() == 0


@pytest.mark.parametrize("what", WAITING)
def test_after_that_everything_works(newcomer, what):
    """The control: the same calls, once the link was followed."""
    newcomer.post(link_of(mail.outbox[0]))

    assert unverified_call(newcomer, what).status_code in (201, 302)


def test_before_that_one_may_look_and_try(newcomer, account):
    AIModelFactory(account=account, name="digits")
    for path in ("/", "/console", "/console/keys", "/dashboard", "/acme/digits", "/console/wallet"):
        assert newcomer.get(path).status_code == 200, path
    test_key = newcomer.post("/console/keys/new", {"name": "x", "mode": "test"})
    assert test_key.status_code == 201


def test_people_made_by_operators_are_confirmed(db):
    user = UserFactory()
    account = user.accounts.create(slug="made", name="Made")

    assert user.email_verified_at is not None
    key.issue_key(actor=Actor(user=user), account=account, name="x", mode="live")


# --- changing ---


def ask(client: Client, email: str = "fresh@example.com"):
    return client.post("/profile/email", {"email": email})


def test_an_address_is_changed_by_a_link_to_the_new_one(owner_client, owner, account):
    assert ask(owner_client, " Fresh@Example.com ").status_code == 302
    (sent,) = mail.outbox
    assert sent.to == ["fresh@example.com"]
    owner.refresh_from_db()
    assert owner.email == "owner@example.com"

    assert "instead of owner@example.com" in owner_client.get(link_of(sent)).content.decode()
    assert owner_client.post(link_of(sent)).status_code == 302

    owner.refresh_from_db()
    assert owner.email == "fresh@example.com"
    assert owner_client.get("/console").status_code == 200
    # The old address hears of the wish and of the change, the new one of the change.
    mail.outbox.clear()
    mail_notices()
    assert sorted(one.to[0] for one in mail.outbox) == [
        "fresh@example.com",
        "owner@example.com",
        "owner@example.com",
    ]
    change = AuditEvent.objects.get(action="user.change_email")
    assert change.payload == {"from": "owner@example.com", "to": "fresh@example.com"}
    # The link was for one change.
    assert owner_client.post(link_of(sent)).status_code == 422


@pytest.mark.parametrize(
    ("email", "text"),
    [
        ("owner@example.com", "This is your address already."),
        ("OUTSIDER@example.com", "Somebody signs in with this"),
        ("no address", "Enter a valid email address."),
        ("", "This field is required."),
        (f"{'a' * 250}@example.com", "254"),
    ],
)
def test_an_address_that_will_not_do_is_refused(owner_client, account, outsider, email, text):
    answer = ask(owner_client, email)

    assert answer.status_code == 422
    assert text in answer.content.decode()
    assert len(mail.outbox) == SecurityNotice.objects.count() == 0


def test_an_address_that_is_taken_in_the_meantime_stays_taken(owner_client, owner):
    ask(owner_client)
    UserFactory(email="fresh@example.com")

    assert owner_client.post(link_of(mail.outbox[0])).status_code == 409
    owner.refresh_from_db()
    assert owner.email == "owner@example.com"


def test_links_to_new_addresses_are_limited(owner_client, account):
    answers = [
        ask(owner_client, f"fresh{number}@example.com").status_code
        for number in range(limits.CONFIRM_MAILS_MAX + 1)
    ]

    assert answers == [302] * limits.CONFIRM_MAILS_MAX + [429]


def test_of_two_wishes_the_first_that_is_followed_counts(owner_client, owner):
    ask(owner_client, "one@example.com")
    ask(owner_client, "two@example.com")
    owner_client.post(link_of(mail.outbox[1]))

    assert owner_client.post(link_of(mail.outbox[0])).status_code == 422
    owner.refresh_from_db()
    assert owner.email == "two@example.com"
