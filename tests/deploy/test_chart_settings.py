"""What the chart tells each process is taken by that process' own reader of settings.

Files that pods mount are made in a folder here, with secrets of the right form in them.
"""

from __future__ import annotations

import base64
import os
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inference.gateway.config import GatewayConfig
from inference.keybroker.config import KeyBrokerConfig
from inference.node.config import NodeConfig
from marketplace import settings as product_settings
from marketplace.core.env import SettingError
from tests.deploy import chart
from tests.deploy.chart import render

TOKEN = "t" * 40
SECRETS = {
    "STRONGROOM_DATABASE_URL": "postgresql://strongroom_app:p@10.0.0.10/strongroom",
    "STRONGROOM_GATEWAY_DATABASE_URL": "postgresql://strongroom_gateway:p@10.0.0.10/strongroom",
    "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql://strongroom_keybroker:p@10.0.0.10/strongroom",
    "STRONGROOM_REDIS_URL": "rediss://app:p@10.0.0.11:6378/0",
    "STRONGROOM_RECEIPT_KEY": base64.b64encode(bytes(32)).decode(),
    "STRONGROOM_STRIPE_SECRET_KEY": "rk_live_x",
    "STRONGROOM_STRIPE_WEBHOOK_SECRET": "whsec_x",
}
MOUNTED = re.compile(r"^/(?:run/secrets/strongroom|etc/strongroom)/.+")
EXAMPLES = {"small": ("small",), "production": ("production", "gpu")}


def make_environment(folder: Path, example: str, deployment: str) -> dict[str, str]:
    """The environment of a process, with its files below a folder."""
    workload = render(*EXAMPLES[example]).get("Deployment", deployment)
    env = chart.environment(chart.pod_spec(workload)["containers"][0])
    for name, value in env.items():
        if MOUNTED.match(value):
            path = folder / value.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SECRETS.get(path.name, TOKEN))
            env[name] = str(path)
    # What the cluster fills in, and folders that are mounted.
    fields = {"<metadata.name>": f"strongroom-{deployment}-abc", "<status.podIP>": "10.8.0.7"}
    return {name: fields.get(value, value) for name, value in env.items()}


def read_gateway(env: Mapping[str, str]) -> object:
    return GatewayConfig.from_env()


def read_keybroker(env: Mapping[str, str]) -> object:
    return KeyBrokerConfig.from_env(env)


def read_node(env: Mapping[str, str]) -> object:
    return NodeConfig.from_env(env)


def read_site(env: Mapping[str, str]) -> object:
    return runpy.run_path(product_settings.__file__)


READERS: dict[str, Callable[[Mapping[str, str]], Any]] = {
    "web": read_site,
    "worker": read_site,
    "beat": read_site,
    "gateway": read_gateway,
    "keybroker": read_keybroker,
    "node-cpu": read_node,
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read the settings of a process as it would in its pod."""

    def read_as(example: str, deployment: str, *, missing: str = "") -> Any:
        env = make_environment(tmp_path, example, deployment)
        env.pop(missing, None)
        for name in list(os.environ):
            if name.startswith("STRONGROOM_"):
                monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return READERS[deployment](env)

    return read_as


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("deployment", READERS)
def test_each_process_takes_what_it_is_told(read, example, deployment):
    assert read(example, deployment)


@pytest.mark.parametrize(
    ("deployment", "missing"),
    [
        ("web", "STRONGROOM_SECRET_KEY_FILE"),
        ("worker", "STRONGROOM_REDIS_URL_FILE"),
        ("beat", "STRONGROOM_DATABASE_URL_FILE"),
        ("gateway", "STRONGROOM_PLAYGROUND_SECRET_FILE"),
        ("keybroker", "STRONGROOM_KEYBROKER_KMS"),
        ("node-cpu", "STRONGROOM_KEYBROKER_URL"),
    ],
)
def test_a_process_that_is_told_less_does_not_start(read, deployment, missing):
    with pytest.raises(SettingError, match=missing.removesuffix("_FILE")):
        read("production", deployment, missing=missing)


def test_secrets_come_out_of_the_files(read):
    site = read("production", "web")
    assert site["SECRET_KEY"] == site["KEYBROKER_TOKEN"] == site["PLAYGROUND_SECRET"] == TOKEN
    assert site["DATABASES"]["default"]["USER"] == "strongroom_app"
    assert read("production", "worker")["RECEIPT_KEY"] == SECRETS["STRONGROOM_RECEIPT_KEY"]
    assert read("production", "gateway").redis_url == SECRETS["STRONGROOM_REDIS_URL"]


def test_the_site_answers_to_the_name_that_gateways_and_nodes_use(read):
    hosts = read("production", "web")["ALLOWED_HOSTS"]
    assert hosts == ["strongroom.example", "strongroom-web"]
    assert read("production", "gateway").site_url == "http://strongroom-web:8000"
    assert read("production", "node-cpu").web_url == "http://strongroom-web:8000"


def test_a_node_tells_gateways_its_own_address_and_drains_for_a_whole_job(read):
    node = read("production", "node-cpu")
    assert node.triton.http_url == "http://10.8.0.7:18000"
    assert node.triton.grpc_url == "10.8.0.7:18001"
    assert node.drain_s == 1800
    assert node.read_join_token() == TOKEN
    assert node.keybroker_url == "https://strongroom-keybroker:8443"


def test_the_key_broker_gives_keys_to_the_code_that_is_named(read):
    broker = read("production", "keybroker")
    assert (broker.host, broker.port, broker.kms) == ("0.0.0.0", 8443, "vault")
    assert broker.loader_digests == {"0" * 64}
    assert broker.evidence == {"none-dev"}
    assert broker.vault.role_id == "strongroom-keybroker"
    assert broker.vault.read_secret_id() == TOKEN
