"""What a busy account has is made in development, once however often it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from inference.management.commands import seed_monitoring
from inference.models import DriftBlock, Metric
from marketplace.models import Notification, StatusDay

pytestmark = pytest.mark.django_db


@pytest.fixture
def seed(settings: Any, account: Any) -> Callable[[], tuple[int, ...]]:
    settings.DEVELOPMENT = True

    def fill() -> tuple[int, ...]:
        call_command("seed_monitoring", "acme", "--models", "2", "--predictions", "1000")
        tables = (DriftBlock, Notification, StatusDay)
        return tuple(one.objects.count() for one in tables)

    return fill


def test_an_account_is_made_busy_once(seed, owner) -> None:
    counts = seed()

    assert counts == (
        seed_monitoring.DRIFT_DAYS * 24,
        seed_monitoring.LINES,
        5 * (seed_monitoring.DAYS - 1),
    )
    assert Metric.objects.exists()
    assert Notification.objects.filter(person=owner, read_at=None).count() == 60
    minutes = F("up") + F("degraded") + F("down")
    assert set(StatusDay.objects.values_list(minutes, flat=True)) == {1440}
    assert seed() == counts


def test_its_pages_show_it(seed, owner_client) -> None:
    seed()

    drift = owner_client.get("/dashboard/models/acme/busy-001/monitoring/drift").content.decode()
    assert "Shifted" in drift
    assert "Stable" in drift
    assert "busy-001" in owner_client.get("/notifications?account=acme").content.decode()
    assert "no trouble" in owner_client.get("/status").content.decode()


def test_nowhere_else(settings, account) -> None:
    settings.DEVELOPMENT = False

    with pytest.raises(CommandError, match="development only"):
        call_command("seed_monitoring", "acme")
    assert not Notification.objects.exists()
