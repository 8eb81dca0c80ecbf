"""A form that is sent twice does once what it asks for."""

from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.utils import timezone
from redis.exceptions import RedisError

from marketplace.models import Announcement, APIKey
from marketplace.views import key as key_views
from marketplace.views.once import TOKEN_LENGTH_MAX

PATH = "/console/keys/new"
KEY = {"name": "reader", "mode": "live", "lifetime": ""}


def open_form(client: Client, path: str = PATH) -> str:
    """The token in a form that was opened now."""
    found = re.search(r'name="once" value="([\w-]+)"', client.get(path).content.decode())
    assert found is not None
    return found[1]


@pytest.fixture
def client(owner_client: Client) -> Client:
    return owner_client


@pytest.mark.django_db
def test_the_second_time_is_refused_and_makes_nothing(client: Client) -> None:
    token = open_form(client)

    first, second = (client.post(PATH, KEY | {"once": token}) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 409)
    assert "sent before" in second.content.decode()
    assert APIKey.objects.count() == 1
    assert client.post(PATH, KEY | {"once": open_form(client)}).status_code == 201
    assert APIKey.objects.count() == 2


@pytest.mark.django_db
def test_without_it_there_would_be_two(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    token = open_form(client)
    monkeypatch.setattr("marketplace.views.once._remember", lambda _name: True)

    for _ in range(2):
        assert client.post(PATH, KEY | {"once": token}).status_code == 201

    assert APIKey.objects.count() == 2


@pytest.mark.django_db
def test_a_form_with_a_fault_may_be_sent_again(client: Client) -> None:
    token = open_form(client)
    refused = client.post(PATH, KEY | {"name": "", "once": token})
    assert refused.status_code == 422

    assert client.post(PATH, KEY | {"once": token}).status_code == 201


@pytest.mark.django_db
def test_a_view_that_fails_leaves_the_form_as_it_was(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_form(client)
    with monkeypatch.context() as patch:
        patch.setattr(key_views.services, "issue_key", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            client.post(PATH, KEY | {"once": token})

    assert client.post(PATH, KEY | {"once": token}).status_code == 201


@pytest.mark.django_db
def test_the_form_of_somebody_else_is_another(client: Client, outsider_client: Client) -> None:
    token = open_form(client)
    assert outsider_client.post(PATH, KEY | {"once": token}).status_code == 201

    assert client.post(PATH, KEY | {"once": token}).status_code == 201


@pytest.mark.django_db
def test_of_a_long_token_the_beginning_counts(client: Client) -> None:
    token = "x" * TOKEN_LENGTH_MAX
    assert client.post(PATH, KEY | {"once": token}).status_code == 201

    assert client.post(PATH, KEY | {"once": token + "y"}).status_code == 409
    assert client.post(PATH, KEY | {"once": token[:-1]}).status_code == 201


@pytest.mark.django_db
def test_without_redis_forms_still_work(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    token = open_form(client)

    def fail(*_: object) -> None:
        raise RedisError

    monkeypatch.setattr(cache, "add", fail)
    monkeypatch.setattr(cache, "delete", fail)

    assert client.post(PATH, KEY | {"name": "", "once": token}).status_code == 422
    assert client.post(PATH, KEY | {"once": token}).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_is_done(client: Client) -> None:
    token = open_form(client)
    gate = threading.Barrier(4)
    codes: list[int] = []

    def send() -> None:
        one = Client()
        one.cookies = client.cookies
        try:
            gate.wait(20)
            codes.append(one.post(PATH, KEY | {"once": token}).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(codes) == [201, 409, 409, 409]
    assert APIKey.objects.count() == 1


@pytest.mark.django_db
def test_an_announcement_is_made_once(admin_client: Client) -> None:
    path, now = "/platform/announcements", timezone.now()
    fields = {
        "text": "Maintenance.",
        "audience": "everybody",
        "tone": "info",
        "starts_at": now.strftime("%Y-%m-%dT%H:%M"),
        "ends_at": (now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M"),
        "once": open_form(admin_client, path),
    }
    codes = [admin_client.post(path, fields).status_code for _ in range(2)]

    assert codes == [302, 409]
    assert Announcement.objects.count() == 1
