"""Counts of tries live in Redis: each test begins with none."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient

from marketplace.models import APIKey
from tests.factories import APIKeyFactory


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    cache.clear()


@pytest.fixture
def api() -> APIClient:
    """A program without a key."""
    return APIClient()


def bearer(api_key: APIKey) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {api_key.text}"}


@pytest.fixture
def token(account, owner) -> APIKey:
    """The owner's creator token for the account `acme`."""
    return APIKeyFactory(account=account, created_by=owner, mode=APIKey.Mode.TOKEN)


@pytest.fixture
def token_api(token) -> APIClient:
    """A program with the owner's token."""
    client = APIClient()
    client.credentials(**bearer(token))
    return client
