"""Real parts to attack, and key brokers that leave a check out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.models import KeyRelease
from inference.services import keybroker_client, platform
from tests.inference.keybroker.conftest import (  # noqa: F401 - the fixtures
    ROOT,
    TOKEN,
    Broker,
    EnrolledNode,
    broker,
    node,
    replica,
    sealed,
    start_broker,
)
from tests.inference.serving.conftest import load, parts, refuse, triton  # noqa: F401

CARELESS = Path(__file__).with_name("careless")

StartCareless = Callable[..., Broker]


@pytest.fixture
def start_careless(
    broker: Broker,  # noqa: F811
    database_urls: dict[str, str],
    tmp_path: Path,
) -> Iterator[StartCareless]:
    """Start another broker over the same keys and rows, which leaves these checks out."""
    started: list[Broker] = []

    def start(*checks: str) -> Broker:
        path = ":".join(map(str, (CARELESS, ROOT, ROOT / "sdk")))
        settings = {"PYTHONPATH": path, "THREATS_WITHOUT": ",".join(checks)}
        started.append(start_broker(tmp_path, database_urls["keybroker"], **settings))
        return started[-1]

    yield start
    for one in started:
        one.process.terminate()
        one.process.wait(10)


@pytest.fixture
def web(broker: Broker, settings: Any) -> Iterator[Any]:  # noqa: F811
    """The web's side, which asks this broker."""
    settings.KEYBROKER_URL, settings.KEYBROKER_TOKEN = broker.url, TOKEN
    settings.KEYBROKER_CA = str(broker.ca)
    yield settings
    keybroker_client._client().close()
    keybroker_client._client.cache_clear()
    platform._cached = None


def ask(broker: Broker, body: dict[str, Any]) -> Any:  # noqa: F811
    """Send a request for a lease, or anything else that has its form."""
    return broker.post("/v1/leases", body, token=None)


def refusal(answer: Any) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json().get("code", "")


def logged() -> list[tuple[str, str]]:
    """The entries of every release log, in order."""
    return list(KeyRelease.objects.order_by("pk").values_list("outcome", "reason_code"))
