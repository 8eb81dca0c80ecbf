"""The way to a first model on sale: its steps tick from what is there, and from nothing else."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from marketplace.core import limits
from marketplace.models import APIKey, AuditEvent, CatalogueEntry, Membership
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.first_push import find_first_push
from marketplace.services.session import CONFIRMED_KEY
from strongroom.sniff import REASONS
from tests.factories import AIModelFactory, APIKeyFactory, ChannelFactory, ModelVersionFactory

URL = "/dashboard/first-push?account=acme"
HTMX = {"HX-Request": "true"}


def done(account) -> list[str]:
    return [step.name for step in find_first_push(account).steps if step.is_done]


def put_token(account, **fields) -> APIKey:
    return APIKeyFactory(account=account, mode=APIKey.Mode.TOKEN, **fields)


# --- the ticks


def test_nothing_is_ticked_before_anything_happens(account):
    assert done(account) == []
    assert find_first_push(account).current == "key"


def test_each_step_ticks_when_it_happens(account):
    key = put_token(account)
    assert done(account) == ["key"]

    key.last_used_at = timezone.now()
    key.save()
    assert done(account) == ["key", "login"]

    model = AIModelFactory(account=account, name="digits")
    version = ModelVersionFactory(model=model, state="uploading")
    assert done(account) == ["key", "login"]

    for state, name in (
        ("onboarding", "push"),
        ("in_review", "onboarding"),
        ("approved", "review"),
    ):
        version.state = state
        version.save()
        assert done(account)[-1] == name

    ChannelFactory(model=model, version=version)
    assert done(account) == ["key", "login", "push", "onboarding", "review", "sale"]
    assert not find_first_push(account).is_done

    CatalogueEntry.objects.filter(model=model).update(price_nanos=0)
    assert find_first_push(account).is_done


@pytest.mark.parametrize(
    ("_case", "fields"),
    [
        ("of a consumer", {"mode": "live"}),
        ("that cannot push", {"scopes": ["read"]}),
        ("revoked", {"revoked_at": timezone.now()}),
        ("expired", {"expires_at": timezone.now() - timedelta(days=1)}),
    ],
)
def test_a_key_that_cannot_push_ticks_nothing(account, _case, fields):
    APIKeyFactory(account=account, **{"mode": "token", **fields}, last_used_at=timezone.now())

    assert done(account) == []


def test_what_others_have_ticks_nothing(account, outsider):
    elsewhere = outsider.accounts.get()
    put_token(elsewhere, last_used_at=timezone.now())
    ChannelFactory(version__model__account=elsewhere)

    assert done(account) == []
    # The control: over there it does.
    assert "sale" in done(elsewhere)


def test_a_push_from_the_browser_needs_no_key(account):
    ModelVersionFactory(model__account=account, state="in_review")

    assert done(account) == ["key", "login", "push", "onboarding"]


def test_a_version_that_failed_is_pushed_and_not_through(account):
    ModelVersionFactory(model__account=account, state="failed")

    assert done(account) == ["key", "login", "push"]


# --- the page


def test_the_page_has_commands_for_this_account_and_says_what_is_refused(
    owner_client, account, settings
):
    settings.WEB_URL = "https://strongroom.example"
    text = owner_client.get(URL).content.decode()

    assert "strongroom login --url https://strongroom.example --account acme" in text
    assert "strongroom push ./model --wait" in text
    for code, reason in REASONS.items():
        assert (reason in text) == (code != "unknown_format")
    assert "srt_" not in text
    assert "/dashboard/push?account=acme" in text


def test_the_page_ticks_by_itself_and_is_silent_where_nothing_happened(owner_client, account):
    page = owner_client.get(URL).content.decode()
    address = re.search(r'hx-get="(/dashboard/first-push[^"]*seen=[^"]*)"', page)[1]
    address = address.replace("&amp;", "&")

    assert owner_client.get(address, headers=HTMX).status_code == 204

    version = ModelVersionFactory(model__account=account, state="onboarding")
    answer = owner_client.get(address, headers=HTMX)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "<html" not in text
    assert f"/panels/onboarding/{version.pk}" in text
    assert "3 of 7 done" in text


def test_it_stops_looking_when_all_is_done(owner_client, account):
    model = ChannelFactory(version__model__account=account).model
    CatalogueEntry.objects.filter(model=model).update(price_nanos=1)

    text = owner_client.get(URL).content.decode()

    assert "your model is on sale" in text
    assert "seen=" not in text


# --- the key


def test_the_key_is_shown_once_and_does_what_a_push_needs(owner, owner_client, account):
    AIModelFactory(account=account, name="digits")
    answer = owner_client.post(URL)
    text = answer.content.decode()
    secret = re.search(r'id="secret">(srt_[^<]+)<', text)[1]

    key = APIKey.objects.get()
    assert answer.status_code == 201
    assert (key.mode, key.scopes) == ("token", ["read", "push", "publish"])
    lifetime = key.expires_at - timezone.now()
    assert timedelta(0) <= limits.LOGIN_TOKEN_LIFETIME - lifetime < timedelta(minutes=5)
    assert f"STRONGROOM_TOKEN={secret}" in text
    assert "no-store" in answer["Cache-Control"]
    assert secret not in owner_client.get(URL).content.decode()
    assert secret not in str(AuditEvent.objects.values_list("payload", flat=True))
    assert AuditEvent.objects.get(action="key.issue").payload["name"] == "First push"
    access_model(Actor(api_key=key), "acme", "digits", "push")


def test_a_developers_key_cannot_publish(teammate_client, account):
    assert teammate_client.post(URL).status_code == 201
    assert APIKey.objects.get().scopes == ["read", "push"]


def test_a_key_needs_a_fresh_proof(owner_client, account):
    session = owner_client.session
    session.pop(CONFIRMED_KEY, None)
    session[CONFIRMED_KEY] = 0
    session.save()

    owner_client.post(URL)

    assert APIKey.objects.count() == 0


def test_one_key_past_the_limit_is_refused(owner_client, account, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_PER_ACCOUNT_MAX", 1)

    assert owner_client.post(URL).status_code == 201
    answer = owner_client.post(URL, follow=True)
    assert "at most 1 live keys" in answer.content.decode()
    assert APIKey.objects.count() == 1


# --- the dashboard's checklist


def test_the_dashboard_has_the_steps_until_they_are_done(owner_client, account):
    assert "First steps" in owner_client.get("/dashboard").content.decode()

    model = ChannelFactory(version__model__account=account).model
    CatalogueEntry.objects.filter(model=model).update(price_nanos=1)
    text = owner_client.get("/dashboard").content.decode()
    assert "First steps" not in text
    assert "first steps" not in text


def test_the_steps_are_put_away_and_brought_back_for_one_person(
    owner_client, teammate_client, account
):
    hide = "/dashboard/first-push/hide?account=acme"
    page = owner_client.post(hide, follow=True).content.decode()

    assert "First steps" not in page
    assert "Show the first steps again" in page
    assert "are put away" in page  # With an undo.
    assert "First steps" in teammate_client.get("/dashboard?account=acme").content.decode()

    page = owner_client.post(hide, {"show": "1"}, follow=True).content.decode()
    assert "First steps" in page
    assert not Membership.objects.exclude(first_push_hidden_at=None).exists()


def test_viewers_are_not_shown_what_they_cannot_do(teammate, teammate_client, account):
    account.memberships.filter(user=teammate).update(role="viewer")

    assert "First steps" not in teammate_client.get("/dashboard?account=acme").content.decode()


def test_the_empty_states_lead_here(owner_client, account):
    for page in ("/dashboard", "/dashboard/models", "/dashboard/models/new"):
        assert "/dashboard/first-push?account=acme" in owner_client.get(page).content.decode()


def test_whether_the_account_can_be_paid_stands_beside_it(owner_client, account):
    text = owner_client.get("/panels/payout-setup?account=acme").content.decode()

    assert "Tell Stripe who you are" in text
