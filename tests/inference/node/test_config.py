from __future__ import annotations

from pathlib import Path

import pytest

from inference.node.config import CACHE_BYTES_DEFAULT, NodeConfig
from marketplace.core.env import SettingError

ENV = {
    "STRONGROOM_NODE_DIR": "/srv/node",
    "STRONGROOM_NODE_RUN_DIR": "/run/s",
    "STRONGROOM_NODE_NAME": "node-1",
    "STRONGROOM_WEB_URL": "http://127.0.0.1:8000/",
    "STRONGROOM_KEYBROKER_URL": "https://broker:8443",
    "STRONGROOM_NODE_TRITON_HTTP_PORT": "20001",
    "STRONGROOM_NODE_TRITON_GRPC_PORT": "20002",
    "STRONGROOM_NODE_TRITON_METRICS_PORT": "20003",
}


def test_settings_come_from_the_environment():
    config = NodeConfig.from_env(ENV)

    assert config.name == "node-1"
    assert config.web_url == "http://127.0.0.1:8000"
    assert config.keybroker_url == "https://broker:8443"
    assert config.socket_path == Path("/run/s/stub.sock")
    assert config.cache_dir == Path("/srv/node/cache")
    assert config.manifest_dir == Path("/srv/node/manifests")
    assert config.cache_bytes == CACHE_BYTES_DEFAULT
    assert (config.mirror_url, config.prefetches) == ("", False)
    assert config.triton.work_dir == Path("/srv/node/triton")
    assert config.triton.http_url == "http://127.0.0.1:20001"
    assert config.triton.grpc_url == "127.0.0.1:20002"
    assert config.triton.metrics_url == "http://127.0.0.1:20003/metrics"
    assert config.triton.secret not in repr(config)


def test_a_cache_may_be_shared_mirrored_and_filled_ahead():
    config = NodeConfig.from_env(
        ENV
        | {
            "STRONGROOM_NODE_CACHE_DIR": "/mnt/nvme/strongroom",
            "STRONGROOM_NODE_MIRROR_URL": "http://127.0.0.1:4001/bucket/",
            "STRONGROOM_NODE_PREFETCH": "on",
        }
    )

    assert config.cache_dir == Path("/mnt/nvme/strongroom")
    # What is one node's own stays with it.
    assert config.manifest_dir == Path("/srv/node/manifests")
    assert config.mirror_url == "http://127.0.0.1:4001/bucket/{object}"
    assert config.prefetches


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"STRONGROOM_NODE_DIR": ""}, "STRONGROOM_NODE_DIR"),
        ({"STRONGROOM_NODE_NAME": "Node_1"}, "STRONGROOM_NODE_NAME"),
        ({"STRONGROOM_NODE_NAME": "a" * 64}, "STRONGROOM_NODE_NAME"),
        ({"STRONGROOM_WEB_URL": "127.0.0.1:8000"}, "STRONGROOM_WEB_URL"),
        ({"STRONGROOM_KEYBROKER_URL": ""}, "STRONGROOM_KEYBROKER_URL"),
        ({"STRONGROOM_KEYBROKER_URL": "http://broker:1"}, "STRONGROOM_KEYBROKER_URL"),
        ({"STRONGROOM_KEYBROKER_CA": "/nowhere/ca.pem"}, "STRONGROOM_KEYBROKER_CA"),
        ({"STRONGROOM_NODE_TRITON_HTTP_PORT": "x"}, "STRONGROOM_NODE_TRITON_HTTP_PORT"),
        ({"STRONGROOM_NODE_TRITON_GRPC_PORT": "65536"}, "STRONGROOM_NODE_TRITON_GRPC_PORT"),
        ({"STRONGROOM_NODE_CACHE_BYTES": "0"}, "STRONGROOM_NODE_CACHE_BYTES"),
        ({"STRONGROOM_NODE_PREFETCH": "yes"}, "STRONGROOM_NODE_PREFETCH"),
        ({"STRONGROOM_NODE_MIRROR_URL": "mirror:80"}, "STRONGROOM_NODE_MIRROR_URL"),
        ({"STRONGROOM_NODE_MIRROR_URL": "http://m/?key=1"}, "STRONGROOM_NODE_MIRROR_URL"),
        ({"STRONGROOM_NODE_RUN_DIR": "/run/" + "x" * 93}, "STRONGROOM_NODE_RUN_DIR"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(SettingError, match=named):
        NodeConfig.from_env(ENV | changes)


def test_a_broker_without_tls_is_for_development():
    env = ENV | {"STRONGROOM_KEYBROKER_URL": "http://127.0.0.1:1", "STRONGROOM_ENV": "development"}

    assert NodeConfig.from_env(env).keybroker_url == "http://127.0.0.1:1"
    assert NodeConfig.from_env(ENV).keybroker_ca is None
    assert NodeConfig.from_env(ENV | {"STRONGROOM_KEYBROKER_CA": __file__}).keybroker_ca


def test_the_longest_path_of_a_socket_is_taken():
    config = NodeConfig.from_env(ENV | {"STRONGROOM_NODE_RUN_DIR": "/run/" + "x" * 92})

    assert len(str(config.socket_path)) == 107


def test_the_join_token_is_read_when_it_is_needed(tmp_path):
    file = tmp_path / "join-token"
    config = NodeConfig.from_env(ENV | {"STRONGROOM_NODE_JOIN_TOKEN_FILE": str(file)})
    assert config.read_join_token() == ""

    file.write_text("snt_secret\n")

    assert config.read_join_token() == "snt_secret"
    assert "snt_secret" not in repr(config)


def test_the_pool_is_a_name_or_nothing():
    assert NodeConfig.from_env(ENV).pool == ""
    assert NodeConfig.from_env(ENV | {"STRONGROOM_NODE_POOL": "gpu-l4"}).pool == "gpu-l4"
    with pytest.raises(SettingError, match="STRONGROOM_NODE_POOL must have lowercase"):
        NodeConfig.from_env(ENV | {"STRONGROOM_NODE_POOL": "GPU"})
