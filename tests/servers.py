"""The test run's own Postgres and Redis, as in production: same roles, same passwords' kind.

`tests/settings.py` calls `provide()` before Django reads its settings: ports and passwords
are fixed then and the environment is filled. Redis starts at once (30 ms), Postgres on the
first use of a database. Both end with the run, however it ends.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedded import ports, postgres, redis, spawn

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Servers:
    folder: Path
    postgres_port: int
    redis_port: int
    superuser_password: str
    passwords: dict[str, str]
    redis_password: str
    redis_gateway_password: str

    def database_url(self, role: str, database: str = postgres.DATABASE) -> str:
        return postgres.url(self.postgres_port, role, self.passwords[role], database)

    @property
    def superuser_url(self) -> str:
        return postgres.url(
            self.postgres_port, postgres.SUPERUSER, self.superuser_password, "postgres"
        )

    @property
    def redis_url(self) -> str:
        return redis.url(self.redis_port, self.redis_password)

    @property
    def gateway_redis_url(self) -> str:
        return redis.url(self.redis_port, self.redis_gateway_password, user=redis.GATEWAY_USER)


@functools.cache
def provide() -> Servers:
    """Fix ports and passwords, fill the environment, start Redis."""
    folder = Path(tempfile.mkdtemp(prefix="strongroom-test-"))
    folder.chmod(0o711)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    servers = Servers(
        folder=folder,
        postgres_port=ports.choose(),
        redis_port=ports.choose(),
        superuser_password=secrets.token_hex(16),
        passwords={role: secrets.token_hex(16) for role in postgres.ROLES},
        redis_password=secrets.token_hex(16),
        redis_gateway_password=secrets.token_hex(16),
    )
    _start_redis(servers)
    os.environ.update(environment(servers))
    return servers


def environment(servers: Servers) -> dict[str, str]:
    """What the product's settings read. The test run connects as the schema's owner."""
    return {
        "STRONGROOM_ENV": "development",
        "STRONGROOM_HOME": str(servers.folder / "home"),
        "STRONGROOM_SECRET_KEY": secrets.token_hex(32),
        "STRONGROOM_DATABASE_URL": servers.database_url(postgres.OWNER),
        "STRONGROOM_REDIS_URL": servers.redis_url,
        "STRONGROOM_WEB_URL": "http://127.0.0.1:8000",
        "STRONGROOM_GATEWAY_URL": "http://127.0.0.1:8001",
        "STRONGROOM_KEYBROKER_URL": "http://127.0.0.1:9",
        "STRONGROOM_KEYBROKER_TOKEN": secrets.token_hex(16),
        "STRONGROOM_PLAYGROUND_SECRET": secrets.token_hex(16),
        "STRONGROOM_OBJECTS_DIR": str(servers.folder / "objects"),
        "STRONGROOM_STRIPE_SECRET_KEY": "sk_test_" + secrets.token_hex(16),
        "STRONGROOM_STRIPE_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(16),
        "STRONGROOM_STRIPE_API_BASE": "http://127.0.0.1:9",
        # Tests that use onnxruntime themselves report to nobody.
        "ORT_DISABLE_TELEMETRY": "1",
    }


@functools.cache
def start_postgres() -> Servers:
    """Start Postgres, once; roles and database exist when this returns."""
    servers = provide()
    folder = servers.folder / "postgres"
    user = postgres.server_user(folder)
    postgres.prepare(folder, password=servers.superuser_password, user=user, durable=False)
    process = spawn.start(
        postgres.command(folder, servers.postgres_port, durable=False),
        env=postgres.environment(),
        cwd=servers.folder,
        log=servers.folder / "postgres.log",
        user=user,
        death_signal=signal.SIGQUIT,
    )
    atexit.register(_stop, process, postgres.STOP_SIGNAL)
    _wait(process, lambda: postgres.is_ready(servers.superuser_url), servers.folder, "postgres")
    postgres.ensure_roles(
        servers.postgres_port, servers.superuser_password, servers.passwords, for_tests=True
    )
    return servers


def _start_redis(servers: Servers) -> None:
    command = redis.prepare(
        servers.folder / "redis",
        port=servers.redis_port,
        password=servers.redis_password,
        gateway_password=servers.redis_gateway_password,
    )
    process = spawn.start(
        command,
        env={"PATH": "/usr/bin:/bin"},
        cwd=servers.folder,
        log=servers.folder / "redis.log",
        death_signal=signal.SIGKILL,
    )
    atexit.register(_stop, process, signal.SIGTERM)
    _wait(process, lambda: ports.is_listening(servers.redis_port), servers.folder, "redis")


def _wait(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], folder: Path, name: str
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            text = (folder / f"{name}.log").read_text()[-2000:]
            raise RuntimeError(f"{name} did not start:\n{text}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
