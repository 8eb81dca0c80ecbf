"""Ask the gateway how it is: whether it is ready, what it counted, which replicas it leaves alone.

For the overview of the platform, which one person looks at. Prometheus reads the same page for
everything else. Numbers are of the one process that answers.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from functools import cache as kept

import httpx
from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(1.0)
# A gateway with a hundred versions and their replicas answers some 500 KiB.
PAGE_BYTES_MAX = 4 * 1024 * 1024
_SAMPLE_KEY = "platform:gateway-counts"
_SAMPLE_KEPT_S = 120
_SAMPLE = re.compile(r"strongroom_gateway_([a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+)")
_OUTCOME = re.compile(r'outcome="([a-z_]+)"')


@dataclass(frozen=True, slots=True)
class GatewayHealth:
    """What a gateway said.

    Attributes:
        is_ready: Postgres is there and tells of changes.
        is_readable: Its counters could be read from here; else the numbers below say nothing.
        open_requests: Requests without an answer yet.
        waiting_requests: Of them, those that wait for a replica.
        breakers_open: Replicas that are left alone because they kept failing.
        requests_per_s: Answered requests, since the look before; None at the first look.
        failed_per_s: Of them, those that were our fault.
        is_deaf: Changes are not heard, so nothing is cached.
        has_shared_limits: Redis is there; else each gateway keeps its part of the limits.
    """

    is_ready: bool
    is_readable: bool = False
    open_requests: int = 0
    waiting_requests: int = 0
    breakers_open: int = 0
    requests_per_s: float | None = None
    failed_per_s: float | None = None
    is_deaf: bool = False
    has_shared_limits: bool = True


def ask_gateway() -> GatewayHealth:
    """How the gateway is now; it has a second to say so."""
    try:
        is_ready = _client().get(f"{settings.GATEWAY_URL}/health/ready").status_code == 200
        page = _client().get(f"{settings.GATEWAY_URL}/metrics")
    except httpx.HTTPError:
        return GatewayHealth(is_ready=False)
    if page.status_code != 200 or len(page.content) > PAGE_BYTES_MAX:
        return GatewayHealth(is_ready=is_ready)
    return read_metrics(page.text, is_ready=is_ready)


def read_metrics(text: str, *, is_ready: bool) -> GatewayHealth:
    """The few numbers of the page that the overview shows."""
    sums: dict[str, float] = {}
    breakers_open = 0
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is None:
            continue
        name, labels, value = found[1], found[2] or "", float(found[3])
        if name == "replica_breaker":
            breakers_open += value > 0
        elif name == "requests_total":
            outcome = _OUTCOME.search(labels)
            sums["answered"] = sums.get("answered", 0.0) + value
            if outcome is not None and outcome[1] == "server_error":
                sums["failed"] = sums.get("failed", 0.0) + value
        else:
            sums[name] = sums.get(name, 0.0) + value
    answered, failed = sums.get("answered", 0.0), sums.get("failed", 0.0)
    rates = _rates(answered, failed)
    return GatewayHealth(
        is_ready=is_ready,
        is_readable=True,
        open_requests=int(sums.get("open_requests", 0)),
        waiting_requests=int(sums.get("replica_waiting_requests", 0)),
        breakers_open=breakers_open,
        requests_per_s=rates[0],
        failed_per_s=rates[1],
        is_deaf=sums.get("changes_listening", 1.0) == 0,
        has_shared_limits=sums.get("limits_shared", 1.0) != 0,
    )


def _rates(answered: float, failed: float) -> tuple[float | None, float | None]:
    now_s = time.time()
    try:
        before: tuple[float, float, float] | None = cache.get(_SAMPLE_KEY)
        if before is None or now_s - before[0] >= 1:
            cache.set(_SAMPLE_KEY, (now_s, answered, failed), _SAMPLE_KEPT_S)
    except RedisError:
        logger.warning("redis is away: no rates of the gateway")
        return None, None
    # A gateway that was started anew counts from zero.
    if before is None or answered < before[1] or now_s <= before[0]:
        return None, None
    span_s = now_s - before[0]
    return (answered - before[1]) / span_s, max(0.0, failed - before[2]) / span_s


@kept
def _client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT, trust_env=False)
