import subprocess
import time

import pytest
import redis
from redis.exceptions import AuthenticationError

from embedded import ports
from embedded import redis as embedded_redis

PASSWORD = "a" * 32


@pytest.fixture
def server(tmp_path):
    port = ports.choose()
    command = embedded_redis.prepare(tmp_path / "redis", port=port, password=PASSWORD)
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


def test_nothing_is_written_to_disk(server, tmp_path):
    with redis.Redis.from_url(embedded_redis.url(server, PASSWORD)) as client:
        client.set("key", "value")
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        client.shutdown()

    assert [path.name for path in (tmp_path / "redis").iterdir()] == ["redis.conf"]


def test_the_password_is_in_no_command_line(tmp_path):
    command = embedded_redis.prepare(tmp_path / "redis", port=1, password=PASSWORD)

    assert PASSWORD not in " ".join(map(str, command))
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_nobody_there_is_not_ready():
    assert not embedded_redis.is_ready(embedded_redis.url(ports.choose(), PASSWORD))
