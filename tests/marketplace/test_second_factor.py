"""Codes of an app, recovery codes, and what they open."""

from __future__ import annotations

import re
import time
from io import StringIO

import pytest
import time_machine
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from django.contrib.auth import get_user
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client
from rest_framework.test import APIClient

from marketplace.core import limits
from marketplace.core.errors import AuthenticationError, ConflictError
from marketplace.errors import LoginThrottledError
from marketplace.models import (
    Account,
    APIKey,
    AuditEvent,
    Authenticator,
    RecoveryCode,
    SecurityNotice,
    User,
)
from marketplace.selectors.access import Actor
from marketplace.services import second_factor, throttle
from tests.factories import PASSWORD
from tests.marketplace.test_catalog import in_threads

NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


def code_of(user: User, at: float | None = None) -> str:
    """What the person's app shows."""
    secret = second_factor._open(Authenticator.objects.get(user=user))
    shown = TOTP(secret, 6, SHA1(), 30).generate(int(time.time() if at is None else at))
    return shown.decode()


def enrol(user: User, *, at: float | None = None) -> list[str]:
    """Set up an app some minutes ago; returns the recovery codes."""
    begun = (time.time() if at is None else at) - 300
    with time_machine.travel(begun, tick=False):
        second_factor.begin_authenticator(user)
        return second_factor.confirm_authenticator(user, code_of(user))


def sign_in(client: Client, email: str, target: str = ""):
    body = {"email": email, "password": PASSWORD, "next": target}
    return client.post("/login", body)


def is_signed_in(client: Client) -> bool:
    return get_user(client).is_authenticated


# --- signing in ---


def test_with_an_app_the_password_is_half_the_way(client, owner, account):
    enrol(owner)

    answer = sign_in(client, owner.email, "/console")
    assert answer.url == "/login/second-factor"
    assert not is_signed_in(client)
    assert client.get("/console").status_code == 302
    wrong = client.post("/login/second-factor", {"code": "000000"})
    assert (wrong.status_code, is_signed_in(client)) == (422, False)

    answer = client.post("/login/second-factor", {"code": code_of(owner)})

    assert (answer.status_code, answer.url) == (302, "/console")
    assert is_signed_in(client)
    assert client.session["factor"] == "totp"


def test_without_an_app_the_password_is_the_whole_way(client, owner, account):
    """The control: the step above is made by the factor, and by nothing else."""
    second_factor.begin_authenticator(owner)

    assert sign_in(client, owner.email).url == "/home"
    assert is_signed_in(client)


def test_the_second_step_is_nobodys_without_the_first(client, owner):
    enrol(owner)

    assert client.get("/login/second-factor").url == "/login"
    assert client.post("/login/second-factor", {"code": code_of(owner)}).url == "/login"
    assert not is_signed_in(client)


@pytest.mark.parametrize("change", ["time", "password", "suspension"])
def test_the_first_step_is_soon_forgotten(client, owner, change):
    enrol(owner)
    sign_in(client, owner.email)
    later = time.time()
    if change == "time":
        later += limits.PENDING_LOGIN_LIFETIME_S + 1
    elif change == "password":
        owner.set_password("something else entirely")
        owner.save()
    else:
        User.objects.update(is_active=False)

    with time_machine.travel(later):
        assert client.post("/login/second-factor", {"code": code_of(owner)}).url == "/login"
    assert not is_signed_in(client)


def test_the_session_gets_another_key_at_each_step(client, owner):
    """A key that a stranger has planted before is worth nothing after."""
    enrol(owner)
    client.post("/login/passkey/options")
    planted = client.session.session_key
    sign_in(client, owner.email)
    between = client.session.session_key
    client.post("/login/second-factor", {"code": code_of(owner)})

    assert len({planted, between, client.session.session_key}) == 3
    stranger = Client()
    stranger.cookies["sessionid"] = planted
    assert not is_signed_in(stranger)


# --- codes ---


@pytest.mark.parametrize(("drift_s", "is_right"), [(-30, True), (0, True), (30, True)])
def test_a_clock_may_be_one_step_off(owner, drift_s, is_right):
    enrol(owner, at=NOW)
    with time_machine.travel(NOW, tick=False):
        assert second_factor.check_code(owner, code_of(owner, NOW + drift_s)) == "totp"


@pytest.mark.parametrize("drift_s", [-60, 60])
def test_a_clock_may_not_be_two_steps_off(owner, drift_s):
    enrol(owner, at=NOW)
    with time_machine.travel(NOW, tick=False), pytest.raises(AuthenticationError):
        second_factor.check_code(owner, code_of(owner, NOW + drift_s))


def test_a_code_works_once_and_earlier_ones_no_more(owner):
    enrol(owner, at=NOW)
    with time_machine.travel(NOW, tick=False):
        code = code_of(owner)
        second_factor.check_code(owner, code)
        for replayed in (code, code_of(owner, NOW - 30)):
            with pytest.raises(AuthenticationError):
                second_factor.check_code(owner, replayed)
    with time_machine.travel(NOW + 30, tick=False):
        assert second_factor.check_code(owner, code_of(owner)) == "totp"


def test_without_the_memory_a_code_would_work_again(owner):
    """The control: the same code, after its step is forgotten."""
    enrol(owner, at=NOW)
    with time_machine.travel(NOW, tick=False):
        code = code_of(owner)
        second_factor.check_code(owner, code)
        Authenticator.objects.update(last_step=0)
        assert second_factor.check_code(owner, code) == "totp"


@pytest.mark.django_db(transaction=True)
def test_of_many_who_send_the_same_code_one_gets_in(owner, monkeypatch):
    monkeypatch.setattr(limits, "FACTOR_FAILURES_MAX", 100)
    codes = enrol(owner, at=NOW)

    def send(code: str) -> int:
        try:
            second_factor.check_code(owner, code)
        except AuthenticationError:
            return 0
        return 1

    with time_machine.travel(NOW, tick=False):
        shown = code_of(owner)
        assert sum(in_threads(8, lambda: send(shown))) == 1
    assert sum(in_threads(8, lambda: send(codes[0]))) == 1


def test_codes_are_counted_and_the_sixth_is_refused(client, owner):
    enrol(owner)
    sign_in(client, owner.email)
    for _ in range(limits.FACTOR_FAILURES_MAX):
        assert client.post("/login/second-factor", {"code": "000000"}).status_code == 422

    answer = client.post("/login/second-factor", {"code": code_of(owner)})

    assert answer.status_code == 429
    assert answer["Retry-After"] == "900"
    # Another browser and another address help nobody.
    other = Client(REMOTE_ADDR="203.0.113.7")
    sign_in(other, owner.email)
    assert other.post("/login/second-factor", {"code": code_of(owner)}).status_code == 429


def test_without_the_count_the_sixth_would_get_in(client, owner, monkeypatch):
    monkeypatch.setattr(throttle, "count_factor", lambda **_: None)
    enrol(owner)
    sign_in(client, owner.email)
    for _ in range(limits.FACTOR_FAILURES_MAX):
        client.post("/login/second-factor", {"code": "000000"})

    assert client.post("/login/second-factor", {"code": code_of(owner)}).status_code == 302


def test_a_right_code_forgets_the_wrong_ones(owner):
    codes = enrol(owner)
    for code in codes[:2]:
        for _ in range(limits.FACTOR_FAILURES_MAX - 1):
            with pytest.raises(AuthenticationError):
                second_factor.check_code(owner, "000000")
        assert second_factor.check_code(owner, code) == "recovery"


@pytest.mark.parametrize("code", ["", "\u0660" * 6, "1" * 40, "abc", "00000", "0000000", "\0" * 6])
def test_odd_codes_are_wrong(owner, code):
    enrol(owner)

    with pytest.raises(AuthenticationError):
        second_factor.check_code(owner, code)


# --- what is stored ---


def test_the_secret_is_stored_sealed_and_for_one_person(owner, outsider):
    enrol(owner)
    row = Authenticator.objects.get()
    secret = second_factor._open(row)

    assert secret not in bytes(row.sealed_secret)
    assert len(secret) == 20
    # Copied to another person, it opens nothing, and nobody gets in by it.
    Authenticator.objects.create(
        user=outsider, sealed_secret=row.sealed_secret, confirmed_at=row.confirmed_at
    )
    with pytest.raises(AuthenticationError):
        second_factor.check_code(outsider, code_of(owner))
    assert second_factor.check_code(owner, code_of(owner)) == "totp"


def test_under_another_secret_of_the_platform_codes_are_wrong_and_recovery_works(owner, settings):
    codes = enrol(owner)
    shown = code_of(owner)
    settings.SECRET_KEY = "another" * 10

    with pytest.raises(AuthenticationError):
        second_factor.check_code(owner, shown)
    assert second_factor.check_code(owner, codes[0]) == "recovery"


def test_recovery_codes_are_stored_as_digests_and_work_once_each(owner):
    codes = enrol(owner)

    assert len(set(codes)) == limits.RECOVERY_CODES == RecoveryCode.objects.count()
    assert all(re.fullmatch(r"[A-Z2-7]{4}(-[A-Z2-7]{4}){3}", code) for code in codes)
    stored = b"".join(bytes(row.digest) for row in RecoveryCode.objects.all())
    assert not any(code.encode() in stored for code in codes)
    # As people type it.
    assert second_factor.check_code(owner, codes[0].lower().replace("-", " ")) == "recovery"
    with pytest.raises(AuthenticationError):
        second_factor.check_code(owner, codes[0])
    assert second_factor.check_code(owner, codes[1]) == "recovery"
    assert SecurityNotice.objects.filter(kind="code_used").count() == 2


def test_anothers_recovery_code_is_wrong(owner, outsider):
    codes = enrol(owner)
    enrol(outsider)

    with pytest.raises(AuthenticationError):
        second_factor.check_code(outsider, codes[0])


def test_new_codes_end_the_earlier_ones(owner):
    codes = enrol(owner)
    fresh = second_factor.make_recovery_codes(owner)

    with pytest.raises(AuthenticationError):
        second_factor.check_code(owner, codes[0])
    assert second_factor.check_code(owner, fresh[0]) == "recovery"


def test_without_a_factor_there_is_nothing_to_recover(owner):
    with pytest.raises(ConflictError):
        second_factor.make_recovery_codes(owner)


# --- the pages ---


def test_an_app_is_set_up_on_the_page(owner_client, owner):
    assert owner_client.get("/profile/security/authenticator").url == "/profile/security"
    assert owner_client.post("/profile/security/authenticator/new").status_code == 302
    page = owner_client.get("/profile/security/authenticator")
    secret = second_factor.secret_text(Authenticator.objects.get())
    assert secret in page.content.decode()
    assert "no-store" in page["Cache-Control"]

    wrong = owner_client.post("/profile/security/authenticator", {"code": "000000"})
    assert wrong.status_code == 422
    assert Authenticator.objects.get().confirmed_at is None
    done = owner_client.post("/profile/security/authenticator", {"code": code_of(owner)})

    assert done.status_code == 201
    codes = done.context["codes"]
    assert all(code in done.content.decode() for code in codes)
    assert "no-store" in done["Cache-Control"]
    assert "data:text/plain;charset=utf-8,Strongroom%3A" in done.content.decode()
    page = owner_client.get("/profile/security").content.decode()
    assert "10 of 10 are left" in page
    assert not any(code in page for code in codes)
    actions = list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))
    assert actions == ["user.add_factor", "user.recovery_codes"]
    kinds = list(SecurityNotice.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["factor_added", "codes_made"]


def test_the_picture_says_what_the_text_says(owner):
    waiting = second_factor.begin_authenticator(owner)
    url = second_factor.provisioning_url(waiting)

    assert f"secret={second_factor.secret_text(waiting)}" in url
    assert url.startswith("otpauth://totp/Strongroom:owner%40example.com?")


def test_there_is_one_app_and_removing_it_takes_the_codes(owner_client, owner):
    enrol(owner)
    assert owner_client.post("/profile/security/authenticator/new").status_code == 409

    assert owner_client.post("/profile/security/authenticator/remove").status_code == 302

    assert Authenticator.objects.count() == RecoveryCode.objects.count() == 0
    assert AuditEvent.objects.filter(action="user.remove_factor").count() == 1
    assert SecurityNotice.objects.filter(kind="factor_removed").count() == 1
    # Once more changes nothing, and tells nobody.
    owner_client.post("/profile/security/authenticator/remove")
    assert SecurityNotice.objects.filter(kind="factor_removed").count() == 1


def test_new_codes_are_made_on_the_page(owner_client, owner):
    assert owner_client.post("/profile/security/recovery-codes").status_code == 409
    enrol(owner)

    page = owner_client.post("/profile/security/recovery-codes")

    assert page.status_code == 201
    assert len(page.context["codes"]) == limits.RECOVERY_CODES


# --- the command line ---


def test_a_token_takes_the_second_factor_too(owner, account):
    codes = enrol(owner)
    body = {"email": owner.email, "password": PASSWORD, "token_name": "x"}
    api = APIClient()

    refused = api.post("/api/login", body, format="json")
    wrong = api.post("/api/login", body | {"code": "000000"}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (401, "second_factor_required")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthenticated")
    assert APIKey.objects.count() == 0

    for code in (code_of(owner), codes[0]):
        assert api.post("/api/login", body | {"code": code}, format="json").status_code == 201


def test_a_wrong_password_says_nothing_of_a_second_factor(owner, account):
    enrol(owner)
    body = {"email": owner.email, "password": "wrong", "token_name": "x"}

    answer = APIClient().post("/api/login", body, format="json")
    page = Client().post("/login", {"email": owner.email, "password": "wrong"})

    assert answer.json()["code"] == "unauthenticated"
    assert page.status_code == 422


# --- admins ---

ADMIN_PAGES = ["/admin/", "/admin/marketplace/account/", "/platform/frozen"]


@pytest.mark.parametrize("path", ADMIN_PAGES)
def test_an_admin_without_a_factor_is_sent_to_set_one_up(admin_client, settings, path):
    settings.STAFF_SECOND_FACTOR = True

    answer = admin_client.get(path)

    assert answer.url.startswith("/profile/security?next=/")
    assert "Admins need a second factor" in admin_client.get(answer.url).content.decode()


@pytest.mark.parametrize("path", ADMIN_PAGES)
def test_without_the_setting_the_password_opens_the_console(admin_client, settings, path):
    """The control, and how development works."""
    settings.STAFF_SECOND_FACTOR = False

    assert admin_client.get(path).status_code == 200


def test_an_admin_who_was_not_asked_for_its_factor_shows_it_first(
    admin_client, platform_admin, settings
):
    settings.STAFF_SECOND_FACTOR = True
    codes = enrol(platform_admin)

    answer = admin_client.get("/platform/frozen")
    assert answer.url == "/profile/confirm?next=/platform/frozen"
    body = {"confirm_password": PASSWORD, "next": "/platform/frozen"}
    assert admin_client.post("/profile/confirm", body).status_code == 422
    body = {"confirm_code": codes[0], "next": "/platform/frozen"}
    assert admin_client.post("/profile/confirm", body).url == "/platform/frozen"
    assert admin_client.get("/platform/frozen").status_code == 200


def test_an_admin_is_one_after_setting_a_factor_up(admin_client, platform_admin, settings):
    settings.STAFF_SECOND_FACTOR = True
    admin_client.get("/profile/security?next=/admin/")
    admin_client.post("/profile/security/authenticator/new")
    done = admin_client.post("/profile/security/authenticator", {"code": code_of(platform_admin)})

    assert done.context["next"] == "/admin/"
    assert admin_client.get("/admin/").status_code == 200


def test_who_is_held_back_is_an_admin_nowhere(admin_client, account, settings, rf, platform_admin):
    """Also outside the console, where admins see what others do not."""
    from tests.factories import AIModelFactory

    AIModelFactory(account=account, name="secret", visibility="private")
    assert admin_client.get("/acme/secret").status_code == 200
    settings.STAFF_SECOND_FACTOR = True

    assert admin_client.get("/acme/secret").status_code == 404
    assert Actor(user=platform_admin).is_admin
    platform_admin.is_held_back = True
    assert not Actor(user=platform_admin).is_admin


def test_an_admin_cannot_act_by_a_form_it_had_open(admin_client, account, settings):
    settings.STAFF_SECOND_FACTOR = True
    body = {"action": "suspend", "_selected_action": str(account.pk), "confirmed": "yes"}

    assert admin_client.post("/admin/marketplace/account/", body).status_code == 302
    assert Account.objects.get().suspended_at is None


# --- lost devices ---


def test_an_operator_takes_lost_factors_away(owner, client):
    enrol(owner)
    sign_in(client, owner.email)
    client.post("/login/second-factor", {"code": code_of(owner)})
    out = StringIO()

    call_command("reset_second_factor", "OWNER@example.com", reason="called back", stdout=out)

    assert "by password alone" in out.getvalue()
    assert not is_signed_in(client)
    assert Authenticator.objects.count() == RecoveryCode.objects.count() == 0
    event = AuditEvent.objects.get(action="user.reset_factors")
    assert event.actor.startswith("operator:")
    assert event.payload["reason"] == "called back"
    assert SecurityNotice.objects.filter(kind="factors_reset").count() == 1
    assert sign_in(Client(), owner.email).url == "/home"


@pytest.mark.parametrize(("email", "reason"), [("no@example.com", "x"), ("owner@example.com", " ")])
def test_a_reset_of_nobody_or_without_a_reason_is_refused(owner, email, reason):
    enrol(owner)

    with pytest.raises(CommandError):
        call_command("reset_second_factor", email, reason=reason)
    assert Authenticator.objects.count() == 1


def test_the_count_survives_a_redis_that_is_away(owner, monkeypatch):
    from redis.exceptions import RedisError

    def away(*args, **kwargs):
        raise RedisError

    enrol(owner)
    for name in ("add", "incr", "delete"):
        monkeypatch.setattr(cache, name, away, raising=False)

    assert second_factor.check_code(owner, code_of(owner)) == "totp"
    assert LoginThrottledError.retryable
