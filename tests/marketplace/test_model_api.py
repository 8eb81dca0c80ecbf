from __future__ import annotations

import pytest

from marketplace.core import limits
from marketplace.models import AIModel, AuditEvent, Channel
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
)
from tests.marketplace.conftest import bearer

LISTING = {
    "title": "Digits",
    "summary": "Names digits.",
    "card": "# Digits\n",
    "task": "image-classification",
    "licence": "Apache-2.0",
    "industry": "",
    "visibility": "public",
}


def test_a_model_is_made_read_and_changed(token_api, api, account):
    made = token_api.put("/api/models/acme/digits", LISTING, format="json")
    assert made.status_code == 201
    assert made.json() | LISTING == made.json()
    assert (made.json()["owner"], made.json()["name"]) == ("acme", "digits")

    again = token_api.put("/api/models/acme/digits", LISTING, format="json")
    assert again.status_code == 200
    changed = token_api.put("/api/models/acme/digits", LISTING | {"title": "D"}, format="json")
    assert changed.json()["title"] == "D"
    assert api.get("/api/models/acme/digits").json() == changed.json()
    assert AuditEvent.objects.count() == 2


@pytest.mark.parametrize(
    ("pointer", "name", "changes"),
    [
        ("/title", "digits", {"title": ""}),
        ("/title", "digits", {"title": None}),
        ("/title", "digits", {"title": "x" * 121}),
        ("/title", "digits", {"title": "a\0"}),
        ("/summary", "digits", {"summary": "x" * 281}),
        ("/card", "digits", {"card": "x" * (limits.CARD_LENGTH_MAX + 1)}),
        ("/task", "digits", {"task": "Image Classification"}),
        ("/licence", "digits", {"licence": "<b>"}),
        ("/visibility", "digits", {"visibility": "secret"}),
        ("/name", "Digits", {}),
        ("/name", "a" * 64, {}),
        ("/name", "-a", {}),
    ],
)
def test_a_bad_listing_is_refused(token_api, account, pointer, name, changes):
    response = token_api.put(f"/api/models/acme/{name}", LISTING | changes, format="json")

    assert (response.status_code, response.json()["code"]) == (422, "validation")
    assert {fault["pointer"] for fault in response.json()["errors"]} == {pointer}
    assert AIModel.objects.count() == 0


@pytest.mark.parametrize("size", [limits.CARD_LENGTH_MAX, 1])
def test_a_card_at_the_limit_is_taken(token_api, account, size):
    body = LISTING | {"card": "x" * size}

    assert token_api.put("/api/models/acme/digits", body, format="json").status_code == 201


@pytest.mark.parametrize("content", ["not json", "[1]", '"text"'])
def test_what_is_no_object_is_refused(token_api, account, content):
    response = token_api.put("/api/models/acme/digits", content, content_type="application/json")

    assert response.status_code in (400, 422)
    assert response["Content-Type"] == "application/problem+json"
    assert AIModel.objects.count() == 0


def test_nobody_pushes_for_others(api, token_api, account, owner, outsider):
    AIModelFactory(account=outsider.accounts.get(), name="theirs", visibility="private")
    reader = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=["read"])

    for client, headers, path, status in [
        (api, {}, "acme/digits", 401),
        (api, bearer(reader), "acme/digits", 403),
        (token_api, {}, "elsewhere/digits", 404),
        (token_api, {}, "elsewhere/theirs", 404),
        (token_api, {}, "nobody/digits", 404),
    ]:
        response = client.put(f"/api/models/{path}", LISTING, format="json", **headers)
        assert response.status_code == status, path
    assert AIModel.objects.get().title == "Theirs"


def test_a_private_model_is_seen_by_its_members_only(api, token_api, account, outsider):
    AIModelFactory(account=account, name="secret", visibility="private")
    foreign = APIKeyFactory(account=outsider.accounts.get(), created_by=outsider, mode="token")

    assert token_api.get("/api/models/acme/secret").status_code == 200
    for headers in ({}, bearer(foreign)):
        assert api.get("/api/models/acme/secret", **headers).status_code == 404
        assert api.get("/api/models?owner=acme", **headers).json()["results"] == []
    names = [one["name"] for one in token_api.get("/api/models?owner=acme").json()["results"]]
    assert names == ["secret"]


def test_models_come_in_pages(api, db, monkeypatch):
    account = AccountFactory(slug="big")
    for number in range(limits.PAGE_SIZE + 1):
        AIModelFactory(account=account, name=f"m{number:03}")

    first = api.get("/api/models?owner=big").json()
    second = api.get("/api/models?owner=big&page=2").json()

    assert (len(first["results"]), first["page"], first["pages"]) == (limits.PAGE_SIZE, 1, 2)
    assert [one["name"] for one in second["results"]] == [f"m{limits.PAGE_SIZE:03}"]


def test_the_list_of_models_asks_as_often_for_many_as_for_one(api, db, django_assert_num_queries):
    AIModelFactory.create_batch(3)
    with django_assert_num_queries(2):
        api.get("/api/models")


# --- channels ---


def put_channel(client, channel: str = "prod", version: object = 1, **headers):
    url = f"/api/models/acme/digits/channels/{channel}"
    return client.put(url, {"version": version}, format="json", **headers)


@pytest.fixture
def version(account):
    return ModelVersionFactory(model__account=account, model__name="digits")


def test_a_channel_is_moved(token_api, version):
    response = put_channel(token_api)

    assert response.status_code == 200
    assert response.json() == {"model": "acme/digits", "channel": "prod", "version": 1}
    assert Channel.objects.get().version == version


@pytest.mark.parametrize(
    "state", ["uploading", "onboarding", "in_review", "refused", "failed", "withdrawn"]
)
def test_a_version_that_is_not_approved_is_not_published(token_api, account, state):
    ModelVersionFactory(model__account=account, model__name="digits", state=state)
    response = put_channel(token_api)

    assert (response.status_code, response.json()["code"]) == (409, "version_not_approved")
    assert (Channel.objects.count(), AuditEvent.objects.count()) == (0, 0)


@pytest.mark.parametrize(
    ("channel", "number", "status"),
    [
        ("prod", 2, 404),
        ("latest", 1, 404),
        ("prod", 0, 422),
        ("prod", "x", 422),
        ("prod", 10**30, 422),
        ("prod", None, 422),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(token_api, version, channel, number, status):
    assert put_channel(token_api, channel, number).status_code == status
    assert Channel.objects.count() == 0


def test_the_version_of_another_model_is_not_published(token_api, version, account):
    other = ModelVersionFactory(model__account=account, model__name="other", number=2)

    assert put_channel(token_api, "prod", 2).status_code == 404
    assert other.channels.count() == 0


def test_moving_a_channel_needs_the_right(api, version, account, owner, teammate, outsider):
    developer = APIKeyFactory(account=account, created_by=teammate, mode="token")
    pusher = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=["push"])
    foreign = APIKeyFactory(account=outsider.accounts.get(), created_by=outsider, mode="token")

    assert put_channel(api).status_code == 401
    assert put_channel(api, **bearer(developer)).status_code == 403
    assert put_channel(api, **bearer(pusher)).status_code == 403
    # A public model is seen, but what is not one's own cannot be changed.
    assert put_channel(api, **bearer(foreign)).status_code == 403
    AIModel.objects.update(visibility="private")
    assert put_channel(api, **bearer(foreign)).status_code == 404
    assert Channel.objects.count() == 0


def test_a_suspended_accounts_models_are_gone_for_others(api, token_api, account):
    ChannelFactory(version__model__account=account, version__model__name="digits")
    account.suspended_at = account.created_at
    account.save()

    assert api.get("/api/models/acme/digits").status_code == 404
    assert token_api.get("/api/models/acme/digits").status_code == 200
    assert put_channel(token_api).status_code == 403
