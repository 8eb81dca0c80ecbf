"""What a process of the site says of itself, and of what it does not depend."""

from __future__ import annotations

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test import Client

from marketplace.views import health

pytestmark = pytest.mark.django_db
ADDRESSES = ["/health", "/health/ready", "/health/live"]


@pytest.fixture
def refuse(monkeypatch):
    """Has Postgres answer nothing but this error."""

    def run(error: Exception) -> None:
        def raise_it():
            raise error

        monkeypatch.setattr(connection, "cursor", raise_it)

    return run


@pytest.mark.parametrize("address", ADDRESSES)
def test_it_is_well_and_nobody_keeps_the_answer(address):
    answer = Client().get(address)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "no-store" in answer["Cache-Control"]
    assert not answer.cookies
    assert Client().head(address).status_code == 200
    assert Client().post(address).status_code == 405


@pytest.mark.parametrize("error", [OperationalError("db.example: hunter2"), InterfaceError("shut")])
def test_without_postgres_it_is_not_ready_and_lives(refuse, error, caplog):
    refuse(error)

    for address in ("/health", "/health/ready"):
        answer = Client().get(address)
        assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
        assert "no-store" in answer["Cache-Control"]
    assert Client().get("/health/live").status_code == 200
    assert type(error).__name__ in caplog.text
    assert "hunter2" not in caplog.text


def test_to_live_asks_nobody_anything(django_assert_num_queries, settings, monkeypatch):
    settings.KEYBROKER_URL = "https://127.0.0.1:1"
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    with django_assert_num_queries(0):
        assert Client().get("/health/live").status_code == 200
    # To be ready takes one question to Postgres, and neither Redis nor the key broker.
    with django_assert_num_queries(1):
        assert Client().get("/health/ready").status_code == 200
    # The control: who does not ask Postgres counts none.
    monkeypatch.setattr(health.connection, "cursor", _NoCursor)
    with django_assert_num_queries(0):
        assert Client().get("/health/ready").status_code == 200


class _NoCursor:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def execute(self, statement):
        assert statement == "SELECT 1"
