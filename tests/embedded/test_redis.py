import subprocess
import time

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError

from embedded import ports
from embedded import redis as embedded_redis

PASSWORD = "a" * 32
GATEWAY_PASSWORD = "b" * 32


@pytest.fixture
def server(tmp_path):
    port = ports.choose()
    command = embedded_redis.prepare(
        tmp_path / "redis", port=port, password=PASSWORD, gateway_password=GATEWAY_PASSWORD
    )
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={}) as process:
        deadline = time.monotonic() + 10
        address = embedded_redis.url(port, PASSWORD)
        while not embedded_redis.is_ready(address):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield port
        process.terminate()


def test_it_answers_with_the_password_only(server):
    with redis.Redis.from_url(embedded_redis.url(server, PASSWORD)) as client:
        assert client.set("key", "value") is True
    with redis.Redis(port=server) as client, pytest.raises(AuthenticationError):
        client.get("key")


def test_the_gateway_reaches_its_limits_and_jobs_and_nothing_else(server):
    address = embedded_redis.url(server, GATEWAY_PASSWORD, user=embedded_redis.GATEWAY_USER)
    with redis.Redis.from_url(address) as client:
        assert client.set("strongroom:{limits}:key-rpm:1", "1") is True
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "strongroom:{limits}:x") is None
        assert client.xadd("strongroom:{jobs}:wakeups", {"w": "1"})
        for refused in (
            lambda: client.get("celery"),
            lambda: client.xadd("strongroom:jobs", {"w": "1"}),
            lambda: client.set("strongroom:limits", "1"),
            lambda: client.keys("*"),
            client.flushall,
            lambda: client.config_get("requirepass"),
            lambda: client.delete("strongroom:{limits}:key-rpm:1"),
        ):
            with pytest.raises(NoPermissionError):
                refused()
        with pytest.raises(redis.ResponseError):
            client.eval("return redis.call('GET', 'celery')", 0)


def test_nothing_is_written_to_disk(server, tmp_path):
    with redis.Redis.from_url(embedded_redis.url(server, PASSWORD)) as client:
        client.set("key", "value")
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        client.shutdown()

    assert [path.name for path in (tmp_path / "redis").iterdir()] == ["redis.conf"]


def test_the_password_is_in_no_command_line(tmp_path):
    command = embedded_redis.prepare(
        tmp_path / "redis", port=1, password=PASSWORD, gateway_password=GATEWAY_PASSWORD
    )

    assert PASSWORD not in " ".join(map(str, command))
    assert GATEWAY_PASSWORD not in " ".join(map(str, command))
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_nobody_there_is_not_ready():
    assert not embedded_redis.is_ready(embedded_redis.url(ports.choose(), PASSWORD))
