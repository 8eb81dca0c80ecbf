from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command

from marketplace.core import keys
from marketplace.core.ids import new_id
from marketplace.models import Account, APIKey, AuditEvent, ModelVersion, Review, User
from marketplace.selectors.access import Actor, has_right
from marketplace.selectors.key import find_valid_key
from tests.factories import ModelVersionFactory


def seed(*arguments: str) -> dict:
    out = io.StringIO()
    call_command("seed_demo", *arguments, stdout=out)
    return json.loads(out.getvalue())


def test_the_demo_has_a_creator_a_consumer_and_an_admin(db):
    made = seed()

    assert {name: set(member) for name, member in made.items()} == {
        "creator": {"email", "password", "account", "api_token"},
        "consumer": {"email", "password", "account"},
        "admin": {"email", "password"},
    }
    for person in made.values():
        user = User.objects.get(email=person["email"])
        assert user.check_password(person["password"])
        assert user.is_staff == user.is_superuser == (person is made["admin"])
    for name, slug in (("creator", "demo"), ("consumer", "acme")):
        assert made[name]["account"] == slug
        actor = Actor(user=User.objects.get(email=made[name]["email"]))
        assert has_right(actor, Account.objects.get(slug=slug), "members")
    token = find_valid_key(made["creator"]["api_token"])
    assert (token.account.slug, token.mode) == ("demo", "token")


def test_seeding_twice_changes_no_password(db):
    first = seed()
    second = seed()

    assert [one["password"] for one in second.values()] == [None, None, None]
    user = User.objects.get(email=first["creator"]["email"])
    assert user.check_password(first["creator"]["password"])
    assert (User.objects.count(), Account.objects.count()) == (3, 2)
    assert find_valid_key(first["creator"]["api_token"]) is None
    assert find_valid_key(second["creator"]["api_token"]) is not None
    assert APIKey.objects.filter(revoked_at=None).count() == 1


def test_passwords_are_reset_when_asked(db):
    first = seed()
    second = seed("--reset-passwords")

    for name in first:
        user = User.objects.get(email=first[name]["email"])
        assert user.check_password(second[name]["password"])
        assert not user.check_password(first[name]["password"])


def test_passwords_differ(db):
    made = seed()

    assert len({person["password"] for person in made.values()}) == 3


def test_the_demo_is_for_development_only(db, settings):
    settings.DEVELOPMENT = False
    with pytest.raises(CommandError, match="development only"):
        seed()

    assert (User.objects.count(), Account.objects.count()) == (0, 0)


@pytest.mark.parametrize(("flag", "state"), [("--approve", "approved"), ("--refuse", "refused")])
def test_a_version_is_decided(platform_admin, flag, state):
    version = ModelVersionFactory(state="in_review")
    out = io.StringIO()
    arguments = (str(version.pk), flag, "--reason", "Looked.", "--email", "Admin@example.com")
    call_command("review_version", *arguments, stdout=out)

    assert ModelVersion.objects.get().state == state
    assert Review.objects.get().reason == "Looked."
    assert out.getvalue() == f"{version} {state}\n"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("no such version", {"version": str(new_id())}),
        ("no such person", {"email": "nobody@example.com"}),
        ("forbidden", {"email": "owner@example.com"}),
        ("validation", {"reason": " "}),
        ("version_state", {"state": "approved"}),
    ],
)
def test_a_decision_that_cannot_be_is_refused(owner, platform_admin, message, changes):
    version = ModelVersionFactory(state=changes.get("state", "in_review"))
    with pytest.raises(CommandError, match=message):
        call_command(
            "review_version",
            changes.get("version", str(version.pk)),
            "--approve",
            "--reason",
            changes.get("reason", "Looked."),
            "--email",
            changes.get("email", "admin@example.com"),
        )

    assert ModelVersion.objects.get().state == version.state
    assert Review.objects.count() == 0


def test_the_catalogues_key_is_made_known_once(db, settings):
    seed()
    settings.SEARCH_KEY = keys.generate(keys.TEST).text
    for _ in range(2):
        call_command("put_search_key", stdout=io.StringIO())

    api_key = APIKey.objects.get(name="catalogue search")
    assert find_valid_key(settings.SEARCH_KEY) == api_key
    assert (api_key.account.slug, api_key.mode, api_key.scopes) == ("demo", "test", ["predict"])
    assert api_key.allowed_models == ["demo/sentence-embeddings"]
    assert AuditEvent.objects.filter(action="key.issue", object_id=str(api_key.pk)).count() == 1


@pytest.mark.parametrize("prefix", [keys.LIVE, keys.TOKEN, ""])
def test_only_a_test_key_can_be_the_catalogues(db, settings, prefix):
    seed()
    settings.SEARCH_KEY = keys.generate(prefix).text if prefix else "unset"
    before = APIKey.objects.count()
    with pytest.raises(CommandError, match="no test key"):
        call_command("put_search_key")

    assert APIKey.objects.count() == before


def test_the_catalogues_key_needs_the_models_owner(db, settings):
    settings.SEARCH_KEY = keys.generate(keys.TEST).text
    with pytest.raises(CommandError, match="no account demo"):
        call_command("put_search_key")
