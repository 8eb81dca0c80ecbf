"""Look at each part of the platform once a minute, and count by day what was found.

The marketplace knows how to ask for its own site. Packages above it that know of other parts
register here how they find out. Nothing is guessed: who cannot tell says that it is unknown,
and a minute that nobody looked at is counted nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache as kept
from typing import Any

import httpx
from django.conf import settings
from django.db import connection

from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError
from marketplace.models import Part, StatusDay

logger = logging.getLogger(__name__)

State = StatusDay.State
# What a part is like now; it answers within seconds.
Probe = Callable[[], StatusDay.State]

TIMEOUT = httpx.Timeout(3.0)
# Which count of the day a state is added to.
COLUMNS: Mapping[str, str] = {
    State.UP: "up",
    State.DEGRADED: "degraded",
    State.DOWN: "down",
    State.UNKNOWN: "unknown",
}
# The same minute a second time changes nothing, whoever looked first.
_COUNT = """
    INSERT INTO marketplace_statusday AS s
        (part, day, up, degraded, down, unknown, sampled_at, state)
    VALUES (%(part)s, %(day)s, %(up)s, %(degraded)s, %(down)s, %(unknown)s, %(at)s, %(state)s)
    ON CONFLICT (part, day) DO UPDATE SET
        up = s.up + EXCLUDED.up, degraded = s.degraded + EXCLUDED.degraded,
        down = s.down + EXCLUDED.down, unknown = s.unknown + EXCLUDED.unknown,
        sampled_at = EXCLUDED.sampled_at, state = EXCLUDED.state
    WHERE s.sampled_at < EXCLUDED.sampled_at
"""

_probes: dict[Part, Probe] = {}


def register_probe(part: Part, probe: Probe) -> None:
    """Ask this one about the part from now on; called while the site starts."""
    _probes[part] = probe


def sample_status() -> dict[Part, StatusDay.State]:
    """Look at every part and count the minute; returns what was found.

    Safe to repeat: a minute that was counted is not counted again.
    """
    minute = utc_now().replace(second=0, microsecond=0)
    found = {part: _ask(part) for part in Part}
    with connection.cursor() as cursor:
        for part, state in found.items():
            counts = dict.fromkeys(State.values, 0) | {COLUMNS[state]: 1}
            row: dict[str, Any] = {
                "part": part.value,
                "day": minute.date(),
                "at": minute,
                "state": state.value,
            }
            cursor.execute(_COUNT, row | counts)
    _forget()
    return found


def ask_address(url: str) -> StatusDay.State:
    """Whether something answers there as it should."""
    try:
        is_well = _client().get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return State.DOWN
    return State.UP if is_well else State.DOWN


def probe_site() -> StatusDay.State:
    """Whether a page that reads the database is answered at the site's public address."""
    return ask_address(f"{settings.WEB_URL}/status.json")


def _ask(part: Part) -> StatusDay.State:
    probe = _probes.get(part)
    if probe is None:
        return State.UNKNOWN
    try:
        return probe()
    except MarketplaceError as error:
        logger.warning("the state of %s is not known: %s", part.label, error.code)
        return State.UNKNOWN


def _forget() -> None:
    before = utc_now().date() - timedelta(days=settings.METRIC_DAY_DAYS)
    StatusDay.objects.filter(day__lt=before).delete()


@kept
def _client() -> httpx.Client:
    # Proxies of the environment are not for the platform's own addresses.
    return httpx.Client(timeout=TIMEOUT, trust_env=False)
