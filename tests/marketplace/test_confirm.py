"""A second look before money and keys: asked for when it is due, and nothing is lost by it."""

from __future__ import annotations

import re
import time

import pytest
import time_machine
from django.contrib.auth import get_user
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from marketplace.core import limits
from marketplace.models import APIKey, Membership
from marketplace.services import session as sessions
from tests.factories import PASSWORD, AIModelFactory, ModelVersionFactory
from tests.marketplace.software_key import SoftwareKey
from tests.marketplace.test_second_factor import enrol

KEY_FORM = {"name": "build", "mode": "live", "scopes": ["predict", "read"]}
NEW_KEY = "/console/keys/new?account=acme"
# Each with the body of a POST; None where there is only a GET to try.
GUARDED = [
    (NEW_KEY, KEY_FORM),
    ("/accounts/acme/members", {"email": "outsider@example.com", "role": "viewer"}),
    ("/accounts/acme/members/{member}/role", {"role": "viewer"}),
    ("/profile/email", {"email": "other@example.com"}),
    ("/profile/security/authenticator/new", {}),
    ("/profile/security/authenticator/remove", {}),
    ("/profile/security/authenticator", {"code": "000000"}),
    ("/profile/security/recovery-codes", {}),
    ("/profile/security/passkeys", {"name": "x", "credential": "{}"}),
    ("/console/cards/new?account=acme", {}),
    ("/dashboard/payouts?account=acme", {"country": "DE"}),
    ("/dashboard/models/acme/digits/versions/1/shred", {"confirm": "x", "reason": "mine"}),
]
MARK = "Confirm that it is you"


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


@pytest.fixture
def later():
    """The same session, when its proof is too old."""
    with time_machine.travel(time.time() + limits.CONFIRMED_LIFETIME_S + 1):
        yield


@pytest.fixture
def shop(account, teammate) -> dict[str, object]:
    ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))
    return {"member": account.memberships.get(user=teammate).pk}


def fields_of(page) -> dict[str, list[str]]:
    """What the page's form would send, hidden fields only."""
    found: dict[str, list[str]] = {}
    text = page.content.decode()
    form = text[text.index('<form method="post" class="form"') :]
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    found.pop("csrfmiddlewaretoken", None)
    return found


@pytest.mark.parametrize(("url", "body"), GUARDED)
def test_it_is_asked_for_when_the_last_proof_is_old(
    owner_client, account, shop, outsider, later, url, body
):
    before = APIKey.objects.count(), list(Membership.objects.values_list("user_id", "role"))

    page = owner_client.post(url.format(**shop), body)

    assert page.status_code == 422
    assert MARK in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert fields_of(page) == {
        name: value if isinstance(value, list) else [value] for name, value in body.items()
    }
    assert before == (
        APIKey.objects.count(),
        list(Membership.objects.values_list("user_id", "role")),
    )


@pytest.mark.parametrize(("url", "body"), GUARDED)
def test_who_has_just_signed_in_is_not_asked(owner_client, account, shop, outsider, url, body):
    """The control: the same forms, a moment after signing in."""
    page = owner_client.post(url.format(**shop), body)

    assert MARK not in page.content.decode()


def test_the_form_is_sent_as_it_was_filled_in(owner_client, account, later):
    page = owner_client.post(NEW_KEY, KEY_FORM)

    done = owner_client.post(NEW_KEY, fields_of(page) | {"confirm_password": PASSWORD})

    assert done.status_code == 201
    key = APIKey.objects.get()
    assert (key.name, key.mode, key.scopes) == ("build", "live", ["predict", "read"])
    # For a quarter of an hour from then on.
    assert owner_client.get(NEW_KEY).status_code == 200


def test_a_wrong_password_makes_nothing_and_keeps_the_form(owner_client, account, later):
    kept = fields_of(owner_client.post(NEW_KEY, KEY_FORM))

    page = owner_client.post(NEW_KEY, kept | {"confirm_password": "wrong"})

    assert page.status_code == 422
    assert "This is not your password." in page.content.decode()
    assert fields_of(page) == kept
    assert "wrong" not in page.content.decode().replace("is not", "")
    assert APIKey.objects.count() == 0


def test_the_password_is_not_guessed_here(owner_client, account, later):
    for _ in range(limits.LOGIN_FAILURES_MAX):
        assert owner_client.post(NEW_KEY, {"confirm_password": "wrong"}).status_code == 422

    answer = owner_client.post(NEW_KEY, {"confirm_password": PASSWORD})

    assert answer.status_code == 429
    assert answer["Retry-After"]
    assert APIKey.objects.count() == 0


def test_a_link_is_followed_after_the_proof(owner_client, account, later):
    answer = owner_client.get(NEW_KEY)
    assert answer.url == "/profile/confirm?next=/console/keys/new%3Faccount%3Dacme"
    page = owner_client.get(answer.url)
    assert fields_of(page) == {"next": [NEW_KEY]}

    done = owner_client.post(answer.url, {"confirm_password": PASSWORD, "next": NEW_KEY})

    assert (done.status_code, done.url) == (302, NEW_KEY)
    assert owner_client.get(NEW_KEY).status_code == 200


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_the_proof_leads_nowhere_else(owner_client, target):
    body = {"confirm_password": PASSWORD, "next": target}

    assert owner_client.post(f"/profile/confirm?next={target}", body).url == "/home"


def test_a_swap_leads_the_whole_page_there_and_back(owner_client, account, later):
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/console?account=acme"}

    answer = owner_client.post("/console/cards/new?account=acme", headers=headers)

    assert answer.status_code == 200
    assert answer["HX-Redirect"] == "/profile/confirm?next=/console%3Faccount%3Dacme"
    assert answer.content == b""


@pytest.mark.parametrize("url", ["https://evil.example/x", "nonsense", "", "//evil.example//x"])
def test_a_swap_that_lies_about_its_page_leads_home(owner_client, account, later, url):
    headers = {"HX-Request": "true", "HX-Current-URL": url}

    answer = owner_client.post("/console/cards/new?account=acme", headers=headers)

    assert "evil" not in answer["HX-Redirect"]


def test_files_are_sent_once_more(owner_client, account, later):
    body = KEY_FORM | {"file": SimpleUploadedFile("a.txt", b"x")}

    answer = owner_client.post(NEW_KEY, body)

    assert answer.url.startswith("/profile/confirm?next=/console/keys/new")


def test_script_in_a_kept_form_stays_text(owner_client, account, later):
    page = owner_client.post(NEW_KEY, {'"><script>alert(1)</script>': "<b>x</b>"})

    assert "<script>alert" not in page.content.decode()
    assert "<b>x" not in page.content.decode()


def test_the_proof_is_of_the_person_whose_session_it_is(owner_client, account, outsider, later):
    outsider.set_password("outsiders own phrase")
    outsider.save()

    page = owner_client.post(NEW_KEY, KEY_FORM | {"confirm_password": "outsiders own phrase"})

    assert page.status_code == 422
    assert APIKey.objects.count() == 0


# --- with a second factor ---


def test_who_has_a_second_factor_shows_that_one(owner_client, owner, account, later):
    codes = enrol(owner)
    page = owner_client.post(NEW_KEY, KEY_FORM)
    assert 'name="confirm_code"' in page.content.decode()
    assert 'name="confirm_password"' not in page.content.decode()

    assert owner_client.post(NEW_KEY, KEY_FORM | {"confirm_password": PASSWORD}).status_code == 422
    assert owner_client.post(NEW_KEY, KEY_FORM | {"confirm_code": codes[0]}).status_code == 201
    assert owner_client.session["factor"] == "recovery"


def test_a_passkey_confirms(owner_client, owner, account, settings):
    settings.WEB_URL = "http://testserver"
    key = SoftwareKey("http://testserver", "testserver")
    options = owner_client.post("/profile/security/passkeys/options").json()
    body = {"name": "x", "credential": key.create(options)}
    assert owner_client.post("/profile/security/passkeys", body).status_code == 201

    with time_machine.travel(time.time() + limits.CONFIRMED_LIFETIME_S + 1):
        assert "Use a passkey" in owner_client.post(NEW_KEY, KEY_FORM).content.decode()
        options = owner_client.post("/profile/confirm/options").json()
        body = KEY_FORM | {"confirm_passkey": key.get(options)}
        assert owner_client.post(NEW_KEY, body).status_code == 201
        # The same answer once more, when it would be asked for again.
        with time_machine.travel(time.time() + limits.CONFIRMED_LIFETIME_S + 1):
            assert owner_client.post(NEW_KEY, body).status_code == 422


# --- the API ---


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/keys", {"account": "acme", "name": "x", "mode": "live"}),
        ("/api/cards", {"account": "acme"}),
        ("/api/models/acme/digits/shred", {"confirm": "acme/digits", "reason": "mine"}),
    ],
)
def test_a_session_is_asked_by_the_api_too(owner_client, shop, later, path, body):
    answer = owner_client.post(path, body, content_type="application/json")

    assert (answer.status_code, answer.json()["code"]) == (403, "confirmation_required")
    assert APIKey.objects.count() == 0


def test_a_token_is_a_proof_by_itself(account, owner, later):
    from tests.factories import APIKeyFactory

    token = APIKeyFactory(account=account, created_by=owner, mode="token").text
    answer = Client().post(
        "/api/keys",
        {"account": "acme", "name": "x", "mode": "live"},
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )

    assert answer.status_code == 201


def test_a_session_of_before_has_proved_nothing(owner_client, account):
    """One without a stamp, as from an earlier release of ours."""
    session = owner_client.session
    del session[sessions.CONFIRMED_KEY]
    session.save()

    assert get_user(owner_client).is_authenticated
    assert owner_client.get(NEW_KEY).status_code == 302


def test_nobody_is_asked_to_sign_in_first(client, account):
    assert client.post(NEW_KEY, KEY_FORM).url.startswith("/login?next=")
    assert client.get(reverse("marketplace:confirm")).url.startswith("/login?next=")


@pytest.mark.parametrize("has_app", [False, True])
def test_the_field_that_is_asked_for_is_not_optional(owner_client, owner, shop, later, has_app):
    if has_app:
        enrol(owner)
    text = owner_client.get(NEW_KEY, follow=True).content.decode()

    assert MARK in text
    assert "(optional)" not in text
    name = "confirm_code" if has_app else "confirm_password"
    assert " required" in re.findall(f'<input[^>]*name="{name}"[^>]*>', text)[0]
