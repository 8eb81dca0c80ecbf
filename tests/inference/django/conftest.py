"""A creator, a key broker, a store in a temporary folder, and what Celery was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.services import keybroker_client, platform
from inference.tasks import onboarding as onboarding_tasks
from marketplace.models import Account, AIModel
from tests.factories import AIModelFactory
from tests.inference.django import broker as broker_server
from tests.inference.django.broker import Broker
from tests.inference.django.creator import Creator


@pytest.fixture
def store(settings, tmp_path) -> Path:
    """The folder of the object store."""
    folder = tmp_path / "objects"
    artifacts = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder), "file_permissions_mode": 0o600},
    }
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}
    return folder


@pytest.fixture
def broker(settings) -> Iterator[Broker]:
    with broker_server.serve() as broker:
        settings.KEYBROKER_URL = broker.url
        settings.KEYBROKER_TOKEN = broker_server.TOKEN
        yield broker
    keybroker_client._client().close()
    keybroker_client._client.cache_clear()
    platform._cached = None


@pytest.fixture
def enqueued(monkeypatch) -> list[str]:
    """Versions that a worker was asked to look at, in order."""
    asked: list[str] = []
    monkeypatch.setattr(onboarding_tasks.advance_onboarding, "delay", asked.append)
    return asked


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits")


@pytest.fixture
def creator(owner_client, account: Account, store, broker, enqueued) -> Creator:
    """The owner's machine; its signing key is known."""
    creator = Creator(owner_client)
    assert creator.register().status_code == 200
    return creator


def stored_files(folder: Path) -> list[str]:
    """Every file in the store, by its name in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
