from __future__ import annotations

import re
from datetime import timedelta

import pytest
import time_machine
from django.db import connection
from django.utils import timezone
from django.utils.html import strip_tags

from marketplace.core import keys, limits
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.errors import CountLimitError
from marketplace.models import APIKey, AuditEvent
from marketplace.selectors.access import Actor
from marketplace.selectors.key import find_valid_key
from marketplace.services.key import issue_key, revoke_key
from tests.factories import AccountFactory, APIKeyFactory, MembershipFactory
from tests.marketplace.conftest import bearer
from tests.marketplace.test_catalog import in_threads


@pytest.fixture
def actor(owner, account):
    return Actor(user=owner)


# --- making ---


@pytest.mark.parametrize(
    ("mode", "prefix", "scopes"),
    [
        ("live", "sk_live_", ["predict", "read"]),
        ("test", "sk_test_", ["predict", "read"]),
        ("token", "srt_", ["read", "push", "publish", "keys", "billing"]),
    ],
)
def test_a_key_has_its_modes_prefix_and_scopes(actor, account, mode, prefix, scopes):
    api_key, secret = issue_key(actor=actor, account=account, name=" CI ", mode=mode)

    assert secret.text.startswith(prefix)
    assert (api_key.name, api_key.scopes, api_key.hint) == ("CI", scopes, secret.hint)
    assert bytes(APIKey.objects.get().digest) == secret.digest
    event = AuditEvent.objects.get()
    assert (event.action, event.payload) == (
        "key.issue",
        {"name": "CI", "hint": secret.hint, "mode": mode},
    )


@pytest.mark.parametrize(
    ("pointer", "changes"),
    [
        ("/name", {"name": " "}),
        ("/name", {"name": "x" * 81}),
        ("/name", {"name": "a\0b"}),
        ("/mode", {"mode": "root"}),
        ("/scopes", {"scopes": []}),
        ("/scopes", {"scopes": ["push"]}),
        ("/scopes", {"mode": "token", "scopes": ["predict"]}),
        ("/scopes", {"scopes": ["predict", "nonsense"]}),
        ("/expires_at", {"expires_at": timezone.now() - timezone.timedelta(seconds=1)}),
    ],
)
def test_a_key_that_cannot_be_is_not_made(actor, account, pointer, changes):
    with pytest.raises(InvalidInputError) as caught:
        issue_key(**{"actor": actor, "account": account, "name": "x", "mode": "live"} | changes)

    assert [fault["pointer"] for fault in caught.value.errors] == [pointer]
    assert (APIKey.objects.count(), AuditEvent.objects.count()) == (0, 0)


def test_an_account_has_a_limited_number_of_live_keys(actor, account, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_PER_ACCOUNT_MAX", 2)
    past = timezone.now() - timezone.timedelta(days=1)
    APIKeyFactory(account=account, revoked_at=past)
    APIKeyFactory(account=account, expires_at=past)
    first, _ = issue_key(actor=actor, account=account, name="1", mode="live")
    issue_key(actor=actor, account=account, name="2", mode="live")

    with pytest.raises(CountLimitError):
        issue_key(actor=actor, account=account, name="3", mode="live")
    assert APIKey.objects.count() == 4

    revoke_key(actor=actor, api_key=first)
    issue_key(actor=actor, account=account, name="3", mode="live")


@pytest.mark.django_db(transaction=True)
def test_keys_made_at_once_stay_within_the_limit(owner, account, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_PER_ACCOUNT_MAX", 3)

    results = in_threads(
        8,
        lambda: issue_key(actor=Actor(user=owner), account=account, name="x", mode="live")[0].mode,
    )

    refused = [result for result in results if isinstance(result, CountLimitError)]
    assert (len(refused), APIKey.objects.count()) == (5, 3)


def test_a_token_passes_on_no_right_that_it_lacks(owner, account):
    narrow = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=["read", "keys"])
    actor = Actor(user=owner, api_key=narrow)

    with pytest.raises(ForbiddenError):
        issue_key(actor=actor, account=account, name="x", mode="token")
    assert APIKey.objects.count() == 1

    issue_key(actor=actor, account=account, name="x", mode="token", scopes=["read", "keys"])
    issue_key(actor=actor, account=account, name="x", mode="live")


@pytest.mark.parametrize("_asked", [None, timedelta(days=400), timedelta(hours=1)])
def test_a_token_makes_none_that_outlives_it(owner, account, _asked):
    end = timezone.now() + timedelta(days=30)
    parent = APIKeyFactory(account=account, created_by=owner, mode="token", expires_at=end)
    actor = Actor(user=owner, api_key=parent)
    asked = timezone.now() + _asked if _asked else None

    token, _ = issue_key(actor=actor, account=account, name="x", mode="token", expires_at=asked)
    key, _ = issue_key(actor=actor, account=account, name="x", mode="live")

    assert token.expires_at == min(asked or end, end)
    assert key.expires_at is None


def test_the_secret_is_nowhere_in_the_database_nor_in_the_log(owner_client, account, caplog):
    caplog.set_level("DEBUG")
    page = owner_client.post("/console/keys/new", {"name": "canary", "mode": "live"})
    secret = re.search(r'<code id="secret">(\w+)</code>', page.content.decode())[1]
    assert keys.is_well_formed(secret)
    owner_client.get("/console/keys")
    owner_client.get("/api/me", HTTP_AUTHORIZATION=f"Bearer {secret}")

    body = secret[-38:]
    assert find_in_database(body) == []
    assert body not in caplog.text
    for url in ("/console/keys", "/console", "/accounts/acme/activity"):
        assert body not in owner_client.get(url).content.decode()
    # The search itself works: what is stored is found.
    assert "marketplace_apikey.hint" in find_in_database(secret[:12])


def find_in_database(text: str) -> list[str]:
    """Every column of every table whose text contains this."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
        for table, column in cursor.fetchall():
            cursor.execute(
                f'SELECT count(*) FROM "{table}" WHERE "{column}"::text LIKE %s'
                f" OR encode(\"{column}\"::text::bytea, 'escape') LIKE %s",
                [f"%{text}%", f"%{text}%"],
            )
            if cursor.fetchone()[0]:
                found.append(f"{table}.{column}")
    return found


# --- validity ---


def test_a_valid_key_is_found_and_its_use_is_noted(db):
    api_key = APIKeyFactory()

    assert find_valid_key(api_key.text) == api_key
    first = APIKey.objects.get().last_used_at
    assert timezone.now() - first < timezone.timedelta(seconds=5)

    find_valid_key(api_key.text)
    assert APIKey.objects.get().last_used_at == first
    with time_machine.travel(timezone.now() + timezone.timedelta(seconds=61)):
        find_valid_key(api_key.text)
    assert APIKey.objects.get().last_used_at > first


@pytest.mark.parametrize("what", ["revoked", "expired", "checksum", "unknown", "empty", "null"])
def test_what_is_no_valid_key_is_refused(api, owner, account, what):
    past = timezone.now() - timezone.timedelta(seconds=1)
    fields = {"revoked": {"revoked_at": past}, "expired": {"expires_at": past}}.get(what, {})
    api_key = APIKeyFactory(account=account, created_by=owner, mode="token", **fields)
    text = {
        "checksum": api_key.text[:-1] + ("a" if api_key.text[-1] != "a" else "b"),
        "unknown": keys.generate(keys.TOKEN).text,
        "empty": "",
        "null": api_key.text[:-1] + "\0",
    }.get(what, api_key.text)

    response = api.get("/api/me", HTTP_AUTHORIZATION=f"Bearer {text}")

    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response["Content-Type"] == "application/problem+json"
    assert text == "" or text not in response.content.decode()
    assert APIKey.objects.get().last_used_at is None


def test_a_key_ends_in_its_second(db):
    ends = timezone.now() + timezone.timedelta(hours=1)
    api_key = APIKeyFactory(expires_at=ends)

    with time_machine.travel(ends - timezone.timedelta(seconds=1), tick=False):
        assert find_valid_key(api_key.text) == api_key
    with time_machine.travel(ends, tick=False):
        assert find_valid_key(api_key.text) is None


def test_a_token_of_who_was_switched_off_is_refused(token_api, owner):
    assert token_api.get("/api/me").status_code == 200
    owner.is_active = False
    owner.save()

    assert token_api.get("/api/me").status_code == 401


def test_a_consumers_key_outlives_its_maker(api, owner, account):
    live = APIKeyFactory(account=account, created_by=None, mode="live")

    assert api.get("/api/me", **bearer(live)).json()["email"] is None
    assert api.get("/api/usage?account=acme", **bearer(live)).status_code == 200


# --- API ---


def test_keys_over_the_api(token_api, account, owner):
    body = {"account": "acme", "name": "server", "mode": "live", "expires_at": None}
    made = token_api.post("/api/keys", body, format="json")
    assert made.status_code == 201
    answer = made.json()
    assert keys.is_well_formed(answer["key"])
    assert answer["prefix"] == answer["key"][:12]
    assert answer["scopes"] == ["predict", "read"]

    listed = token_api.get("/api/keys?account=acme").json()["results"]
    assert [one["name"] for one in listed] == ["server", "A key"]
    assert all("key" not in one and "digest" not in one for one in listed)

    assert token_api.delete(f"/api/keys/{answer['id']}").status_code == 204
    first = APIKey.objects.get(pk=answer["id"]).revoked_at
    assert token_api.delete(f"/api/keys/{answer['id']}").status_code == 204
    assert APIKey.objects.get(pk=answer["id"]).revoked_at == first
    assert find_valid_key(answer["key"]) is None
    assert list(AuditEvent.objects.values_list("action", flat=True).order_by("seq")) == [
        "key.issue",
        "key.revoke",
    ]


@pytest.mark.parametrize(
    ("pointer", "changes"),
    [
        ("/name", {"name": ""}),
        ("/mode", {"mode": "root"}),
        ("/scopes/0", {"scopes": ["nonsense"]}),
        ("/scopes", {"scopes": ["push"]}),
        ("/expires_at", {"expires_at": "2020-01-01T00:00:00Z"}),
        ("/expires_at", {"expires_at": "tomorrow"}),
        ("/account", {"account": "a/b"}),
    ],
)
def test_bad_keys_over_the_api(token_api, pointer, changes):
    body = {"account": "acme", "name": "x", "mode": "live"} | changes
    response = token_api.post("/api/keys", body, format="json")

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer
    assert APIKey.objects.count() == 1


@pytest.mark.parametrize("scopes", [["read"], ["read", "push"], ["read", "billing"]])
def test_a_token_without_the_scope_makes_and_sees_no_keys(api, owner, account, scopes):
    token = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=scopes)
    body = {"account": "acme", "name": "x", "mode": "live"}

    for response in (
        api.post("/api/keys", body, format="json", **bearer(token)),
        api.get("/api/keys?account=acme", **bearer(token)),
        api.delete(f"/api/keys/{token.pk}", **bearer(token)),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert APIKey.objects.get().revoked_at is None


def test_a_consumers_key_makes_no_keys(api, owner, account):
    live = APIKeyFactory(account=account, created_by=owner, mode="live")
    body = {"account": "acme", "name": "x", "mode": "live"}

    assert api.post("/api/keys", body, format="json", **bearer(live)).status_code == 403
    assert APIKey.objects.count() == 1


def test_a_token_acts_for_its_own_account_only(token_api, owner):
    # The same person owns this account as well; the token was made for the other.
    second = AccountFactory(slug="second", owner=owner)
    foreign = APIKeyFactory(account=second, created_by=owner)
    body = {"account": "second", "name": "x", "mode": "live"}

    assert token_api.post("/api/keys", body, format="json").status_code == 404
    assert token_api.get("/api/keys?account=second").status_code == 404
    assert token_api.delete(f"/api/keys/{foreign.pk}").status_code == 404
    assert APIKey.objects.get(pk=foreign.pk).revoked_at is None


# --- pages ---


def test_a_key_is_shown_once_and_never_cached(owner_client, account):
    form = {"name": "server", "mode": "live", "lifetime": "30"}
    page = owner_client.post("/console/keys/new", form)

    assert page.status_code == 201
    assert "no-store" in page["Cache-Control"]
    stored = APIKey.objects.get()
    left = stored.expires_at - timezone.now()
    assert timezone.timedelta(days=29, hours=23) < left <= timezone.timedelta(days=30)
    listed = owner_client.get("/console/keys").content.decode()
    assert f"{stored.hint}…" in listed


def test_the_form_makes_a_key_of_some_scopes(owner_client, account):
    form = {"name": "reader", "mode": "live", "scopes": ["read"]}
    made = owner_client.post("/console/keys/new", form).content.decode()
    every = owner_client.post("/console/keys/new", {"name": "every", "mode": "live"})

    assert "<dt>May</dt><dd>read</dd>" in made
    assert "<dt>May</dt><dd>predict, read</dd>" in every.content.decode()
    by_name = dict(APIKey.objects.values_list("name", "scopes"))
    assert by_name == {"reader": ["read"], "every": ["predict", "read"]}


def test_a_scope_that_the_kind_may_not_have_is_refused_at_its_field(owner_client, account):
    form = {"name": "x", "mode": "live", "scopes": ["read", "push"]}
    page = owner_client.post("/console/keys/new", form)

    assert page.status_code == 422
    assert "One or more of predict, read." in page.content.decode()
    assert APIKey.objects.count() == 0


def test_the_page_shows_what_a_key_may_do_its_last_use_and_its_end(owner_client, account, owner):
    now = timezone.now()
    APIKeyFactory(
        account=account,
        created_by=owner,
        name="Nightly import",
        scopes=["read"],
        last_used_at=now - timezone.timedelta(hours=3),
        expires_at=now + timezone.timedelta(days=5, hours=1),
    )
    APIKeyFactory(account=account, created_by=owner, name="Unused")

    page = owner_client.get("/console/keys").content.decode()

    unused, nightly = (cells_of(page, name) for name in ("Unused", "Nightly import"))
    assert nightly[1:4] == ["read", "3 h ago", "in 5 d"]
    assert unused[1:4] == ["predict, read", "never", "never"]
    # The same before it is revoked, on a phone too.
    api_key = APIKey.objects.get(name="Nightly import")
    asked = owner_client.get(f"/console/keys/{api_key.pk}/revoke").content.decode()
    facts = re.findall(r"<dd>(.*?)</dd>", asked, re.DOTALL)
    assert [strip_tags(one) for one in facts][1::2] == ["read", "3 h ago"]
    assert strip_tags(facts[4]) == "in 5 d"


def cells_of(page: str, name: str) -> list[str]:
    """The words in the cells of a key's row, behind its name."""
    [row] = [one for one in page.split("<tr>") if name in one and "<td" in one]
    return [strip_tags(one).strip() for one in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]


@pytest.mark.parametrize("form", [{"name": "", "mode": "live"}, {"name": "x", "mode": "root"}])
def test_the_form_says_what_is_missing(owner_client, account, form):
    assert owner_client.post("/console/keys/new", form).status_code == 422
    assert APIKey.objects.count() == 0


def test_too_many_keys_are_told_in_the_form(owner_client, account, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_PER_ACCOUNT_MAX", 0)
    page = owner_client.post("/console/keys/new", {"name": "x", "mode": "live"})

    assert page.status_code == 422
    assert "Revoke one first" in page.content.decode()


def test_revoking_asks_once_more(owner_client, account):
    api_key = APIKeyFactory(account=account)
    url = f"/console/keys/{api_key.pk}/revoke"

    assert "at once" in owner_client.get(url).content.decode()
    assert APIKey.objects.get().revoked_at is None

    assert owner_client.post(url).url == "/console/keys?account=acme"
    assert APIKey.objects.get().revoked_at is not None
    assert "It was revoked" in owner_client.get(url).content.decode()
    assert find_valid_key(api_key.text) is None


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("billing", 403), ("admin", 200)])
def test_who_may_not_make_keys_does_not_see_them(teammate_client, teammate, account, role, status):
    account.memberships.filter(user=teammate).update(role=role)
    api_key = APIKeyFactory(account=account, name="Secret project")

    assert teammate_client.get("/console/keys").status_code == status
    assert teammate_client.get(f"/console/keys/{api_key.pk}/revoke").status_code == status
    console = teammate_client.get("/console").content.decode()
    assert ("Secret project" in console) == (status == 200)


def test_the_list_of_keys_asks_as_often_for_many_as_for_one(
    owner_client, account, owner, django_assert_num_queries
):
    APIKeyFactory(account=account, created_by=owner)
    # One of them is the bell's.
    with django_assert_num_queries(11) as few:
        owner_client.get("/console/keys")
    for _ in range(10):
        APIKeyFactory(account=account, created_by=owner)
        MembershipFactory(account=account)

    with django_assert_num_queries(len(few.captured_queries)):
        owner_client.get("/console/keys")
