from __future__ import annotations

import re
from unittest import mock

import pytest
import time_machine
from django.contrib.auth import get_user
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisConnectionError

from marketplace.core import keys, limits
from marketplace.models import Account, APIKey, AuditEvent, Membership, User
from marketplace.services import account as accounts
from marketplace.services import throttle
from tests.factories import PASSWORD, AccountFactory, MembershipFactory, UserFactory
from tests.marketplace.test_catalog import in_threads

NEW = {"email": "New@Example.com", "slug": "newcomer", "password": PASSWORD}


def sign_in(client: Client, email: str, password: str = PASSWORD, **extra: str):
    return client.post("/login", {"email": email, "password": password}, **extra)


def is_signed_in(client: Client) -> bool:
    return get_user(client).is_authenticated


# --- sign up ---


def test_signing_up_makes_a_person_an_account_and_a_session(client, db):
    response = client.post("/sign-up", NEW)

    assert (response.status_code, response.url) == (302, "/home")
    user = User.objects.get()
    assert user.email == "new@example.com"
    assert user.check_password(PASSWORD)
    membership = Membership.objects.get()
    assert (membership.user, membership.role) == (user, "owner")
    assert (membership.account.slug, membership.account.kind) == ("newcomer", "person")
    assert is_signed_in(client)
    actions = list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))
    assert actions == ["user.sign_up", "account.create"]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("email", {"email": "no address"}),
        ("email", {"email": ""}),
        ("slug", {"slug": "Upper"}),
        ("slug", {"slug": "-a"}),
        ("slug", {"slug": "a" * 40}),
        ("slug", {"slug": "admin"}),
        ("slug", {"slug": "a/b"}),
        ("password", {"password": "short"}),
        ("password", {"password": "password123"}),
        ("password", {"password": "newcomer@example.com", "email": "newcomer@example.com"}),
    ],
)
def test_a_bad_sign_up_writes_nothing(client, db, field, changes):
    response = client.post("/sign-up", NEW | changes)

    assert response.status_code == 422
    assert field in response.context["form"].errors
    assert (User.objects.count(), Account.objects.count()) == (0, 0)
    assert AuditEvent.objects.count() == 0
    assert not is_signed_in(client)


@pytest.mark.parametrize("changes", [{"slug": "acme"}, {"email": "OWNER@example.com"}])
def test_taken_names_and_addresses_write_nothing(client, account, changes):
    response = client.post("/sign-up", NEW | changes)

    assert response.status_code == 422
    assert (User.objects.count(), Account.objects.count()) == (1, 1)


def test_new_accounts_from_one_address_are_limited(client, db, monkeypatch):
    monkeypatch.setattr(limits, "SIGN_UPS_PER_ADDRESS_MAX", 1)
    client.post("/sign-up", NEW)

    response = Client().post("/sign-up", NEW | {"email": "b@example.com", "slug": "b"})

    assert response.status_code == 429
    assert User.objects.count() == 1


# --- sign in ---


def test_signing_in_and_out(client, owner, account):
    response = sign_in(client, "OWNER@example.com ")
    assert (response.status_code, response.url) == (302, "/home")
    assert is_signed_in(client)

    assert client.get("/log-out").status_code == 405
    assert is_signed_in(client)
    assert client.post("/log-out").url == "/"
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    ("email", "password"),
    [("owner@example.com", "wrong"), ("nobody@example.com", PASSWORD)],
)
def test_wrong_passwords_and_unknown_people_get_the_same_answer(client, owner, email, password):
    response = sign_in(client, email, password)

    assert response.status_code == 422
    text = response.content.decode()
    assert "E-mail address and password do not fit." in text
    assert password not in text
    assert not is_signed_in(client)


def test_who_is_switched_off_cannot_sign_in(client, owner):
    owner.is_active = False
    owner.save()

    assert sign_in(client, owner.email).status_code == 422


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/console", "/console"),
        ("https://evil.example/", "/home"),
        ("//evil.example/", "/home"),
        ("javascript:alert(1)", "/home"),
        ("", "/home"),
    ],
)
def test_after_signing_in_one_stays_on_the_site(client, owner, target, expected):
    response = client.post(
        f"/login?next={target}", {"email": owner.email, "password": PASSWORD, "next": target}
    )

    assert response.url == expected


def test_the_sixth_try_is_refused_even_with_the_right_password(client, owner):
    for _ in range(5):
        assert sign_in(client, owner.email, "wrong").status_code == 422

    response = sign_in(client, owner.email)

    assert response.status_code == 429
    assert response["Retry-After"] == "900"
    assert "Too many failed tries" in response.content.decode()
    assert not is_signed_in(client)


def test_without_the_count_the_sixth_try_would_succeed(client, owner, monkeypatch):
    monkeypatch.setattr(throttle, "count_login", lambda **_: None)
    for _ in range(5):
        sign_in(client, owner.email, "wrong")

    assert sign_in(client, owner.email).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_many_tries_at_once_are_counted_one_by_one(owner):
    answers = in_threads(20, lambda: sign_in(Client(), owner.email, "wrong").status_code)

    assert sorted(answers) == [422] * 5 + [429] * 15


def test_the_limit_counts_for_one_person_from_one_address(client, owner, outsider):
    for _ in range(6):
        sign_in(client, owner.email, "wrong")

    assert sign_in(client, outsider.email).status_code == 302
    elsewhere = Client()
    assert sign_in(elsewhere, owner.email, REMOTE_ADDR="203.0.113.7").status_code == 302


def test_the_limit_ends_with_its_window(client, owner):
    for _ in range(6):
        sign_in(client, owner.email, "wrong")
    # The window is Redis's own clock: what expires there is gone here.
    cache.delete(throttle._login_key(owner.email, "127.0.0.1"))

    assert sign_in(client, owner.email).status_code == 302


def test_the_counts_expire_in_redis(client, owner, redis_client):
    sign_in(client, owner.email, "wrong")

    lives = {redis_client.ttl(key) for key in redis_client.scan_iter("*throttle*")}
    assert len(lives) >= 1
    assert all(0 < left <= limits.LOGIN_WINDOW_S for left in lives)


def test_a_right_password_clears_the_count(client, owner):
    for _ in range(3):
        for _ in range(4):
            sign_in(Client(), owner.email, "wrong")
        assert sign_in(Client(), owner.email).status_code == 302


def test_one_address_cannot_try_many_people(client, db, monkeypatch):
    monkeypatch.setattr(limits, "LOGIN_FAILURES_PER_ADDRESS_MAX", 7)
    answers = [sign_in(client, f"p{n}@example.com", "x").status_code for n in range(8)]

    assert answers == [422] * 7 + [429]


def test_without_redis_people_can_still_sign_in(client, owner, caplog):
    with mock.patch.object(cache, "incr", side_effect=RedisConnectionError):
        assert sign_in(client, owner.email).status_code == 302

    assert "redis is away" in caplog.text


def test_the_page_and_the_api_share_the_count(client, api, owner, account):
    for _ in range(5):
        sign_in(client, owner.email, "wrong")

    body = {"email": owner.email, "password": PASSWORD, "token_name": "x"}
    response = api.post("/api/login", body, format="json")

    assert (response.status_code, response.json()["code"]) == (429, "login_throttled")
    assert APIKey.objects.count() == 0


def test_the_admin_console_signs_in_by_the_same_page(client, owner):
    response = client.get("/admin/login/?next=/admin/")

    assert response.url == "/login?next=/admin/"
    assert client.post("/admin/login/", {"username": owner.email, "password": PASSWORD}).url
    assert not is_signed_in(client)


def test_passwords_stay_out_of_logs(client, owner, caplog):
    caplog.set_level("DEBUG")
    canary = "canary-Password-7421"
    sign_in(client, owner.email, canary)
    client.post("/sign-up", NEW | {"password": canary, "email": "broken"})

    assert canary not in caplog.text


# --- API ---


@pytest.mark.parametrize(
    ("_body", "status"),
    [
        (b'{"email": "' + b"a" * (256 * 1024 - 13) + b'"}', 422),
        (b'{"email": "' + b"a" * (256 * 1024 - 12) + b'"}', 413),
        (b"[" * 100_000, 400),
        (b"[]", 422),
    ],
)
def test_bodies_of_strangers_have_a_limit(api, db, _body, status):
    response = api.post("/api/login", _body, content_type="application/json")

    assert response.status_code == status


def test_nobody_is_made_to_work_in_a_strangers_organisation(api, client, owner, account):
    theirs = AccountFactory(slug="0-pay", kind=Account.Kind.ORGANISATION)
    MembershipFactory(account=theirs, user=owner, role=Membership.Role.OWNER)
    body = {"email": owner.email, "password": PASSWORD, "token_name": "laptop"}

    assert api.post("/api/login", body, format="json").json()["account"] == "acme"
    client.force_login(owner)
    page = client.get("/console/wallet").content.decode()
    assert 'action="/console/wallet?account=acme"' in page


def test_login_over_the_api_gives_a_token_once(api, owner, account):
    body = {"email": "Owner@example.com", "password": PASSWORD, "token_name": "laptop"}
    response = api.post("/api/login", body, format="json")

    assert response.status_code == 201
    answer = response.json()
    assert (answer["account"], answer["email"]) == ("acme", "owner@example.com")
    stored = APIKey.objects.get()
    assert bytes(stored.digest) == keys.digest(answer["token"])
    assert (stored.mode, stored.name, stored.created_by) == ("token", "laptop", owner)
    left = stored.expires_at - timezone.now()
    assert limits.LOGIN_TOKEN_LIFETIME - left < timezone.timedelta(minutes=1)

    me = api.get("/api/me", HTTP_AUTHORIZATION=f"Bearer {answer['token']}").json()
    assert me == {
        "email": "owner@example.com",
        "accounts": [{"slug": "acme", "name": "Acme", "role": "owner"}],
        "token": {"name": "laptop", "scopes": ["read", "push", "publish", "keys", "billing"]},
    }


@pytest.mark.parametrize(
    ("_case", "changes", "status", "code"),
    [
        ("wrong password", {"password": "wrong"}, 401, "unauthenticated"),
        ("nobody", {"email": "nobody@example.com"}, 401, "unauthenticated"),
        ("another account", {"account": "elsewhere"}, 404, "not_found"),
        ("no name", {"token_name": ""}, 422, "validation"),
        ("a null character", {"email": "a\0b"}, 422, "validation"),
    ],
)
def test_a_bad_login_gives_no_token(api, account, outsider, _case, changes, status, code):
    body = {"email": "owner@example.com", "password": PASSWORD, "token_name": "x"}
    response = api.post("/api/login", body | changes, format="json")

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response["Content-Type"] == "application/problem+json"
    assert APIKey.objects.count() == 0


def test_a_login_prefers_an_account_of_ones_own(api, outsider):
    MembershipFactory(account=AccountFactory(slug="aaa"), user=outsider, role="viewer")
    MembershipFactory(account=AccountFactory(slug="bbb"), user=outsider, role="developer")
    body = {"email": outsider.email, "password": PASSWORD, "token_name": "x"}

    assert api.post("/api/login", body, format="json").json()["account"] == "elsewhere"
    body["account"] = "bbb"
    assert api.post("/api/login", body, format="json").json()["account"] == "bbb"
    body["account"] = "aaa"
    assert api.post("/api/login", body, format="json").status_code == 403


def test_who_may_make_no_keys_gets_no_token(api, db):
    user = UserFactory()
    MembershipFactory(user=user, role="viewer")
    body = {"email": user.email, "password": PASSWORD, "token_name": "x"}

    response = api.post("/api/login", body, format="json")
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


# --- a forgotten password ---


def ask_for_link(client: Client, email: str) -> str:
    assert client.post("/password-reset", {"email": email}).url == "/password-reset/sent"
    return re.search(r"http://\S+(/password-reset/\S+)", mail.outbox[-1].body)[1]


def test_a_forgotten_password_is_replaced_by_mail(client, owner, account):
    session = Client()
    session.force_login(owner)
    link = ask_for_link(client, owner.email)
    assert mail.outbox[0].to == [owner.email]
    page = client.get(link, follow=True)
    assert page.status_code == 200

    weak = client.post(page.redirect_chain[-1][0], {"password": "short"})
    assert weak.context["form"].errors["password"]
    done = client.post(page.redirect_chain[-1][0], {"password": "a new pass phrase"})

    assert done.url == "/login"
    assert sign_in(Client(), owner.email).status_code == 422
    assert sign_in(Client(), owner.email, "a new pass phrase").status_code == 302
    assert not is_signed_in(session)
    actions = list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))
    assert actions == ["user.password", "user.end_session", "user.new_device"]


def test_a_link_works_once(client, owner):
    link = ask_for_link(client, owner.email)
    accounts.change_password(user=owner, password="something else entirely")

    page = client.get(link, follow=True)

    assert "does not work any more" in page.content.decode()


def test_a_link_ends_after_three_days(client, owner):
    with time_machine.travel(timezone.now() - timezone.timedelta(days=4)):
        link = ask_for_link(client, owner.email)

    assert "does not work any more" in client.get(link, follow=True).content.decode()


def test_nobody_learns_who_has_an_account(client, owner):
    known = client.post("/password-reset", {"email": owner.email})
    unknown = client.post("/password-reset", {"email": "nobody@example.com"})

    assert (known.status_code, known.url) == (unknown.status_code, unknown.url)
    assert len(mail.outbox) == 1


def test_mails_from_one_address_are_limited(client, owner, monkeypatch):
    monkeypatch.setattr(limits, "PASSWORD_RESETS_PER_ADDRESS_MAX", 2)
    answers = [client.post("/password-reset", {"email": owner.email}).status_code for _ in range(3)]

    assert answers == [302, 302, 429]
    assert len(mail.outbox) == 2


# --- profile ---


def test_the_own_password_is_changed_with_the_present_one(owner_client, owner):
    other = Client()
    other.force_login(owner)
    form = {"form": "password", "current": "wrong", "password": "another pass phrase"}
    assert owner_client.post("/profile", form).status_code == 422
    owner.refresh_from_db()
    assert owner.check_password(PASSWORD)

    assert owner_client.post("/profile", form | {"current": PASSWORD}).status_code == 302

    owner.refresh_from_db()
    assert owner.check_password("another pass phrase")
    assert is_signed_in(owner_client)
    assert not is_signed_in(other)


def test_an_open_session_is_no_place_to_guess_the_password(owner_client):
    form = {"form": "password", "current": "wrong", "password": "another pass phrase"}
    answers = [owner_client.post("/profile", form).status_code for _ in range(6)]

    assert answers == [422] * 5 + [429]


def test_a_weak_new_password_is_refused(owner_client, owner):
    form = {"form": "password", "current": PASSWORD, "password": "short"}
    assert owner_client.post("/profile", form).status_code == 422

    owner.refresh_from_db()
    assert owner.check_password(PASSWORD)


def test_the_name_is_changed(owner_client, owner):
    assert owner_client.post("/profile", {"form": "person", "name": " Ada "}).status_code == 302

    owner.refresh_from_db()
    assert owner.name == "Ada"
