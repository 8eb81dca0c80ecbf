"""From when on a restored platform is compared with Stripe.

The drill itself: tests/embedded/test_backup.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.management import CommandError, call_command

from marketplace.management.commands import check_restored
from marketplace.management.commands.check_restored import MARGIN, PERIOD, PERIOD_MAX

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLDEST = NOW - PERIOD_MAX + timedelta(hours=1)


@pytest.mark.parametrize(
    ("_case", "last", "restored_at", "since"),
    [
        ("started just now, and nobody said", NOW, None, NOW - PERIOD),
        ("not started yet, and old", NOW - 2 * PERIOD, None, NOW - 2 * PERIOD - MARGIN),
        ("said", NOW, NOW - timedelta(days=1), NOW - timedelta(days=1) - MARGIN),
        ("said, long ago", NOW, NOW - 3 * PERIOD, NOW - 3 * PERIOD - MARGIN),
        ("older than can be compared", NOW - 2 * PERIOD_MAX, None, OLDEST),
        ("said, as old as can be", NOW, OLDEST, OLDEST),
    ],
)
def test_what_happened_since_the_restored_moment_is_compared(_case, last, restored_at, since):
    assert check_restored.choose_since(last, restored_at, NOW) == since


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday", "2026-13-01T00:00:00Z", "2026", ""),
        (NOW + timedelta(seconds=1)).isoformat(),
        (OLDEST - timedelta(seconds=1)).isoformat(),
    ],
)
def test_a_moment_that_is_none_is_refused_before_anything_is_looked_at(text):
    refused = pytest.raises(CommandError, match="--since must be")
    with time_machine.travel(NOW, tick=False), refused:
        call_command("check_restored", f"--since={text}")


@pytest.mark.parametrize(
    "text", ["2026-11-23T12:00:00Z", "2026-11-23T12:00", "2026-11-23", OLDEST.isoformat()]
)
def test_moments_at_the_limits_are_taken(text):
    with time_machine.travel(NOW, tick=False):
        assert OLDEST <= check_restored.read_moment(text) <= NOW
