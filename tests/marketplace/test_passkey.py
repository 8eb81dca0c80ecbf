"""Passkeys: what a device sends is believed only if all of it fits."""

from __future__ import annotations

import json

import pytest
import time_machine
from django.contrib.auth import get_user
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from marketplace.core import limits
from marketplace.core.errors import AuthenticationError
from marketplace.models import AuditEvent, Passkey, RecoveryCode, SecurityNotice, User
from marketplace.services import passkey
from tests.factories import PASSWORD
from tests.marketplace.software_key import PRESENT, SoftwareKey

ORIGIN, RP_ID = "https://strongroom.example", "strongroom.example"


@pytest.fixture(autouse=True)
def _site(settings) -> None:
    cache.clear()
    settings.WEB_URL = ORIGIN


@pytest.fixture
def key() -> SoftwareKey:
    return SoftwareKey(ORIGIN, RP_ID)


def add(client: Client, key: SoftwareKey, name: str = "laptop"):
    options = client.post("/profile/security/passkeys/options").json()
    return client.post(
        "/profile/security/passkeys", {"name": name, "credential": key.create(options)}
    )


def log_in(client: Client, key: SoftwareKey, **fields: str):
    options = client.post("/login/passkey/options").json()
    return client.post("/login/passkey", {"credential": key.get(options), **fields})


def is_signed_in(client: Client) -> bool:
    return get_user(client).is_authenticated


@pytest.fixture
def added(owner_client, key) -> Passkey:
    assert add(owner_client, key).status_code == 201
    return Passkey.objects.get()


# --- adding ---


def test_a_passkey_is_added_with_recovery_codes(owner_client, owner, key):
    options = owner_client.post("/profile/security/passkeys/options").json()
    assert options["rp"] == {"name": "Strongroom", "id": RP_ID}
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["authenticatorSelection"]["residentKey"] == "required"

    page = add(owner_client, key)

    assert page.status_code == 201
    assert len(page.context["codes"]) == limits.RECOVERY_CODES == RecoveryCode.objects.count()
    row = Passkey.objects.get()
    assert (row.user, row.name, row.transports) == (owner, "laptop", ["internal"])
    actions = list(AuditEvent.objects.order_by("seq").values_list("action", flat=True))
    assert actions == ["user.add_factor", "user.recovery_codes"]
    assert SecurityNotice.objects.filter(kind="factor_added", what="passkey “laptop”").exists()
    # The second brings no codes, and the question names the first.
    listed = owner_client.post("/profile/security/passkeys/options").json()["excludeCredentials"]
    assert len(listed) == 1
    assert add(owner_client, SoftwareKey(ORIGIN, RP_ID)).url == "/profile/security"


def lie(key: SoftwareKey, about: str) -> None:
    if about == "origin":
        key.origin = "https://strongroom.example.evil.example"
    elif about == "port":
        key.origin = "https://strongroom.example:444"
    elif about == "site":
        key.rp_id = "evil.example"
    elif about == "verification":
        key.flags = PRESENT
    elif about == "presence":
        key.flags = 0


LIES = ["origin", "port", "site", "verification", "presence"]


@pytest.mark.parametrize("about", LIES)
def test_a_device_that_lies_is_not_added(owner_client, key, about):
    lie(key, about)

    assert add(owner_client, key).status_code == 422
    assert Passkey.objects.count() == RecoveryCode.objects.count() == 0


def test_a_question_is_answered_once_and_soon(owner_client, key):
    options = owner_client.post("/profile/security/passkeys/options").json()
    body = {"name": "laptop", "credential": key.create(options)}
    late = timezone.now() + timezone.timedelta(seconds=passkey.CHALLENGE_LIFETIME_S + 2)
    with time_machine.travel(late):
        assert owner_client.post("/profile/security/passkeys", body).status_code == 422
    # It is taken also by an answer that was refused.
    assert owner_client.post("/profile/security/passkeys", body).status_code == 422
    assert Passkey.objects.count() == 0


def test_a_passkey_is_one_persons(owner_client, outsider_client, added, key):
    assert add(outsider_client, key).status_code == 422
    assert Passkey.objects.count() == 1


def test_a_person_has_so_many_passkeys_and_no_more(owner_client, key, monkeypatch):
    monkeypatch.setattr(limits, "PASSKEYS_PER_PERSON_MAX", 2)
    answers = [add(owner_client, SoftwareKey(ORIGIN, RP_ID)).status_code for _ in range(2)]

    assert answers == [201, 302]
    assert owner_client.post("/profile/security/passkeys/options").status_code == 409
    assert Passkey.objects.count() == 2


@pytest.mark.parametrize(
    ("name", "status"), [("a" * 80, 201), ("a" * 81, 422), ("", 422), (" ", 422), ("a\0b", 422)]
)
def test_names_have_a_length(owner_client, key, name, status):
    assert add(owner_client, key, name).status_code == status


# --- signing in ---


def test_a_passkey_signs_in_without_a_password(client, owner, account, added, key):
    answer = log_in(client, key, next="/console")

    assert (answer.status_code, answer.url) == (302, "/console")
    assert get_user(client) == owner
    assert client.session["factor"] == "passkey"
    added.refresh_from_db()
    assert added.last_used_at is not None


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_it_leads_nowhere_else(client, owner, account, added, key, target):
    assert log_in(client, key, next=target).url == "/home"


@pytest.mark.parametrize("about", LIES)
def test_a_device_that_lies_signs_nobody_in(client, added, key, about):
    lie(key, about)

    answer = log_in(client, key)

    assert answer.status_code == 422
    assert "not known here" in answer.content.decode()
    assert not is_signed_in(client)


def test_a_stranger_to_the_site_signs_nobody_in(client, added, key):
    stranger = SoftwareKey(ORIGIN, RP_ID)
    assert log_in(client, stranger).status_code == 422
    # With the name of a known key and a signature of another.
    stranger.credential_id = key.credential_id
    assert log_in(client, stranger).status_code == 422
    # With the handle of somebody else.
    key.user_handle = bytes(16)
    assert log_in(client, key).status_code == 422
    assert not is_signed_in(client)


def test_an_answer_works_once_and_in_its_own_session(client, added, key):
    options = client.post("/login/passkey/options").json()
    body = {"credential": key.get(options)}

    assert Client().post("/login/passkey", body).status_code == 422
    assert client.post("/login/passkey", body).status_code == 302
    client.post("/log-out")
    assert client.post("/login/passkey", body).status_code == 422


def test_a_question_asked_for_one_purpose_serves_no_other(owner_client, added, key):
    options = owner_client.post("/profile/confirm/options").json()
    owner_client.post("/log-out")
    assert owner_client.post("/login/passkey", {"credential": key.get(options)}).status_code == 422


def test_who_is_suspended_is_out(client, owner, added, key):
    User.objects.filter(pk=owner.pk).update(is_active=False)

    assert log_in(client, key).status_code == 422


def test_a_count_goes_up_or_the_key_may_be_a_copy(owner, added, key):
    key.count = 5
    assert log_in(Client(), key).status_code == 302
    key.count = 6
    assert log_in(Client(), key).status_code == 302
    for copied in (6, 5, 0):
        key.count = copied
        answer = log_in(Client(), key)
        assert answer.status_code == 422
        assert "may be a copy" in answer.content.decode()
    assert AuditEvent.objects.filter(action="user.copied_passkey").count() == 3
    key.count = 7
    assert log_in(Client(), key).status_code == 302


def test_a_device_that_does_not_count_is_taken(added, key):
    """The control: most passkeys say 0 for ever."""
    for _ in range(2):
        assert log_in(Client(), key).status_code == 302


# --- the second step ---


def test_a_passkey_is_a_second_factor(client, owner, account, added, key):
    body = {"email": owner.email, "password": PASSWORD, "next": "/console"}
    assert client.post("/login", body).url == "/login/second-factor"
    options = client.post("/login/passkey/options").json()
    assert [one["type"] for one in options["allowCredentials"]] == ["public-key"]

    answer = client.post("/login/passkey", {"credential": key.get(options), "next": "/console"})

    assert answer.url == "/console"
    assert is_signed_in(client)


def test_anothers_passkey_is_none(client, owner, outsider_client, added):
    """Whose password it was, and whose passkey, must be the same person."""
    foreign = SoftwareKey(ORIGIN, RP_ID)
    add(outsider_client, foreign)
    client.post("/login", {"email": owner.email, "password": PASSWORD})

    assert log_in(client, foreign).status_code == 422
    assert not is_signed_in(client)


# --- names, removal ---


def test_a_passkey_is_renamed_and_removed(owner_client, client, added, key):
    path = f"/profile/security/passkeys/{added.pk}"
    assert owner_client.post(f"{path}/rename", {"name": " blue "}).status_code == 302
    added.refresh_from_db()
    assert added.name == "blue"
    assert owner_client.post(f"{path}/rename", {"name": "a" * 81}).status_code == 422

    assert owner_client.post(f"{path}/remove").status_code == 302

    assert Passkey.objects.count() == RecoveryCode.objects.count() == 0
    assert log_in(client, key).status_code == 422
    assert SecurityNotice.objects.filter(kind="factor_removed").count() == 1


@pytest.mark.parametrize("act", ["rename", "remove"])
def test_anothers_passkey_is_not_found(outsider_client, teammate_client, added, act):
    for stranger in (outsider_client, teammate_client):
        path = f"/profile/security/passkeys/{added.pk}/{act}"
        assert stranger.post(path, {"name": "mine"}).status_code == 404
    added.refresh_from_db()
    assert added.name == "laptop"


# --- where ---


@pytest.mark.parametrize(
    ("web_url", "is_development", "origin"),
    [
        ("https://strongroom.example", False, "https://strongroom.example"),
        ("https://strongroom.example:8443", False, "https://strongroom.example:8443"),
        ("https://192.0.2.7", False, None),
        ("http://127.0.0.1:8000", True, "http://localhost:8000"),
        ("http://[::1]:8000", True, "http://localhost:8000"),
    ],
)
def test_passkeys_have_one_origin(settings, web_url, is_development, origin):
    settings.WEB_URL, settings.DEVELOPMENT = web_url, is_development

    assert passkey.find_origin() == origin


def test_a_page_at_another_address_names_the_one_for_passkeys(owner_client, client, settings):
    page = owner_client.get("/profile/security").content.decode()
    assert f'href="{ORIGIN}/profile/security"' in page
    assert "Add a passkey" not in page
    assert "with a passkey" not in client.get("/login").content.decode()
    # The control: at its own address.
    settings.WEB_URL = "http://testserver"
    assert "Add a passkey" in owner_client.get("/profile/security").content.decode()
    assert "with a passkey" in client.get("/login").content.decode()


def test_without_a_name_the_site_says_so(owner_client, settings):
    settings.WEB_URL, settings.DEVELOPMENT = "https://192.0.2.7", False

    assert "reached by a number" in owner_client.get("/profile/security").content.decode()
    assert owner_client.post("/profile/security/passkeys/options").status_code == 409
    assert owner_client.post("/login/passkey/options").status_code == 409


# --- nonsense ---

NONSENSE = ["", "{}", "[]", "null", "1", '"x"', "{", "[" * 20_000, '{"response": 1}', "\ud800"]
NONSENSE += ['{"id":"a","rawId":"a","type":"public-key","response":{}}']


@pytest.mark.parametrize("answer", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_refused(owner_client, client, added, answer):
    answer = answer.encode("utf-8", "replace").decode()
    client.post("/login/passkey/options")
    assert client.post("/login/passkey", {"credential": answer}).status_code == 422
    owner_client.post("/profile/security/passkeys/options")
    body = {"name": "x", "credential": answer}
    assert owner_client.post("/profile/security/passkeys", body).status_code == 422
    assert Passkey.objects.count() == 1


@given(at=st.integers(0, 200), value=st.integers(0, 255))
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_byte_changed_signs_nobody_in(added, key, at, value):
    client = Client()
    cache.clear()
    options = client.post("/login/passkey/options").json()
    sent = json.loads(key.get(options))
    fields = sorted(sent["response"])
    field = fields[at % len(fields)]
    raw = bytearray(sent["response"][field].encode())
    place = (at * 7) % (len(raw) - 2)
    changed = chr(value) if chr(value).isalnum() and value < 128 and value != raw[place] else "."
    sent["response"][field] = raw.decode()[:place] + changed + raw.decode()[place + 1 :]

    client.post("/login/passkey", {"credential": json.dumps(sent)})

    assert not is_signed_in(client)


def test_questions_from_one_address_are_limited(client, db, monkeypatch):
    monkeypatch.setattr(limits, "LOGIN_FAILURES_PER_ADDRESS_MAX", 2)
    answers = [Client().post("/login/passkey/options").status_code for _ in range(5)]

    assert answers == [200] * 4 + [429]


def test_a_proof_of_nobody_is_told_as_such(db, client):
    with pytest.raises(AuthenticationError):
        passkey.finish_proof(client.session, purpose="login", answer="{}")
