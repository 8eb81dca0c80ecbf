"""Gateways' limits in the test's own process, on a real Redis, and a Redis to break."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import redis

from embedded import ports
from embedded import redis as embedded_redis
from inference.gateway.auth import Caller
from inference.gateway.catalog import Offer
from inference.gateway.config import GatewayConfig
from inference.gateway.limits import Limits
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.interface import Interface

PASSWORD, GATEWAY_PASSWORD = "a" * 32, "b" * 32
NONE = {
    "account_requests_per_minute": 0,
    "account_units_per_minute": 0,
    "account_concurrency_max": 0,
}


class OwnRedis:
    """A Redis that a test may stop and kill; it comes back empty on the same port."""

    def __init__(self, folder: Path) -> None:
        self.port = ports.choose()
        self.command = embedded_redis.prepare(
            folder / "redis",
            port=self.port,
            password=PASSWORD,
            gateway_password=GATEWAY_PASSWORD,
        )
        self.url = embedded_redis.url(self.port, GATEWAY_PASSWORD, user=embedded_redis.GATEWAY_USER)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, env={})
        deadline = time.monotonic() + 30
        while not embedded_redis.is_ready(self.admin_url):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @property
    def admin_url(self) -> str:
        return embedded_redis.url(self.port, PASSWORD)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.admin_url)


def make_config(redis_url: str, **settings: Any) -> GatewayConfig:
    """Without any limit of an account unless one is given."""
    fields = {**NONE, "redis_wait_ms": 5_000} | settings
    return GatewayConfig(
        "", "https://gateway.example", "https://web.example", "", redis_url, **fields
    )


def make_caller(key_id: UUID | None = None, **limits: int) -> Caller:
    return Caller(
        account_id=new_id(),
        slug="buyer",
        key_id=key_id or new_id(),
        is_test=False,
        scopes=frozenset(),
        expires_at=None,
        is_suspended=False,
        **limits,
    )


def make_offer(**limits: int) -> Offer:
    interface = cast(Interface, None)  # No limit looks at it.
    ids = new_id(), new_id(), new_id()
    return Offer(
        ids[0], 1, "", "onnx", interface, utc_now(), ids[1], "maker", ids[2], "echo", "", False,
        None, 0, **limits,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(redis_url: str, count: int = 1, **settings: Any) -> AsyncIterator[list[Limits]]:
    """Some gateways' limits, all of which know of each other."""
    gateways = [Limits(make_config(redis_url, **settings)) for _ in range(count)]
    for one in gateways:
        await one.start()
    try:
        for one in gateways:
            # Without waiting for the next beat.
            one.store._is_beat_due = True
            one.store._wake.set()
        await until(lambda: all(one.store.gateways >= count for one in gateways))
        yield gateways
    finally:
        for one in gateways:
            await one.stop()


async def until(check: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """Wait until a check says yes."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
