"""A node counts what it loads, fetches and is asked, and says how it is."""

from __future__ import annotations

import re
import shutil
import tempfile
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from embedded import ports
from inference.node import metrics
from inference.node.config import NodeConfig
from inference.node.control_plane import _Api
from marketplace.core.clock import utc_now
from marketplace.core.env import SettingError
from marketplace.core.exposition import Page
from tests.inference.node.processes import NodeProcess

ENVIRONMENT = {
    "STRONGROOM_ENV": "development",
    "STRONGROOM_NODE_NAME": "n",
    "STRONGROOM_WEB_URL": "http://127.0.0.1:1",
    "STRONGROOM_KEYBROKER_URL": "http://127.0.0.1:2",
}


def read(name, **labels):
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    line = re.escape(f"strongroom_node_{name}" + (f"{{{inner}}}" if inner else ""))
    found = re.search(rf"^{line} (\S+)$", metrics.REGISTRY.render().decode(), re.MULTILINE)
    return None if found is None else float(found[1])


def test_what_can_happen_is_there_before_it_does():
    for outcome in ("ok", "cancelled", "model", "disk_full", "lease_lost", "stub_died"):
        assert read("loads_total", outcome=outcome) is not None
    for result in metrics.CANARY_RESULTS:
        assert read("canary_answers_total", result=result) is not None
    assert read("leases_lost_total") is not None


def test_a_failed_load_is_named_by_whose_fault_it_is():
    assert metrics.name_failure("disk_full") == "disk_full"
    # Codes of models are many, and a model's loader could make some up.
    assert metrics.name_failure("output_mismatch") == "model"
    assert metrics.name_failure('"} 1\nforged 1') == "model"


def test_the_node_is_looked_at_when_it_is_asked(monkeypatch):
    monkeypatch.setattr(metrics, "_sources", [])
    assert read("triton_ready") is None
    metrics.watch(lambda: iter([("triton_ready", 0, {}), ("replicas", 2, {"state": "ready"})]))
    assert read("triton_ready") == 0
    assert read("replicas", state="ready") == 2
    metrics.watch(lambda: iter([("triton_ready", 1, {})]))
    assert read("triton_ready") == 1
    assert read("replicas", state="ready") is None


def test_only_what_is_declared_can_be_told(monkeypatch):
    monkeypatch.setattr(metrics, "_sources", [lambda: iter([("made_up", 1, {})])])
    with pytest.raises(KeyError):
        metrics._write(Page({one.name: one for one in metrics.GAUGES}))


@pytest.mark.parametrize(
    ("ahead", "skew_s"),
    [(timedelta(0), 0), (timedelta(minutes=2), 120), (-timedelta(minutes=2), -120)],
)
def test_the_clock_is_compared_with_the_others(ahead, skew_s):
    api = _Api("http://127.0.0.1:1")
    stamp = format_datetime(utc_now() - ahead, usegmt=True)
    api._note_clock(httpx.Response(200, headers={"Date": stamp}))
    api.close()

    assert api.clock_skew_s == pytest.approx(skew_s, abs=1)


@pytest.mark.parametrize("stamp", ["", "yesterday", "Mon, 99 Nov 2026 00:00:00 GMT"])
def test_a_time_that_cannot_be_read_says_nothing(stamp):
    api = _Api("http://127.0.0.1:1")
    api._note_clock(httpx.Response(200, headers={"Date": stamp} if stamp else {}))
    api.close()

    assert api.clock_skew_s is None


def test_the_settings(tmp_path):
    environment = ENVIRONMENT | {"STRONGROOM_NODE_DIR": str(tmp_path)}
    assert NodeConfig.from_env(environment).metrics_listen is None
    listen = {"STRONGROOM_NODE_METRICS_LISTEN": "0.0.0.0:9103"}
    token = {"STRONGROOM_METRICS_TOKEN": "n" * 32}
    config = NodeConfig.from_env(environment | listen | token)
    assert (config.metrics_listen, config.metrics_token) == (("0.0.0.0", 9103), "n" * 32)
    assert "n" * 32 not in repr(config)
    for wrong in ({"STRONGROOM_NODE_METRICS_LISTEN": "9103"}, {"STRONGROOM_METRICS_TOKEN": "n"}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            NodeConfig.from_env(environment | wrong)


TOKEN = "n" * 32


@pytest.fixture(scope="module")
def node(platform):
    """A real node that serves its numbers."""
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    address = f"127.0.0.1:{ports.choose()}"
    started = NodeProcess(
        folder, platform, STRONGROOM_NODE_METRICS_LISTEN=address, STRONGROOM_METRICS_TOKEN=TOKEN
    )
    started.start()
    platform.wait_triton(ready=True)
    yield started
    if started.process.poll() is None:
        started.stop()
    shutil.rmtree(folder, ignore_errors=True)


def scrape(node, token=TOKEN):
    url = f"http://{node.settings['STRONGROOM_NODE_METRICS_LISTEN']}/metrics"
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def test_a_running_node_tells_what_it_does(platform, node, sealed):
    before = scrape(node).text
    assert 'strongroom_node_loads_total{outcome="ok"} 0\n' in before
    assert "strongroom_node_triton_ready 1\n" in before

    replica_id = platform.assign(sealed)
    platform.wait_state(replica_id, "ready")
    after = scrape(node).text

    assert 'strongroom_node_loads_total{outcome="ok"} 1\n' in after
    assert 'strongroom_node_cache_requests_total{result="miss"} 1\n' in after
    assert 'strongroom_node_replicas{state="ready"} 1\n' in after
    assert "strongroom_node_leases_held 1\n" in after
    size_bytes = sum(one.stat().st_size for one in sealed.parts)
    assert f"strongroom_node_fetched_bytes_total {size_bytes}\n" in after
    ends_at = re.search(
        r"^strongroom_node_certificate_expiry_timestamp_seconds (.+)$", after, re.MULTILINE
    )
    assert float(ends_at[1]) > utc_now().timestamp()
    # Everything that a node declares, it tells.
    shown = set(re.findall(r"^# TYPE (\S+) ", after, re.MULTILINE))
    assert set(metrics.REGISTRY.families) - shown <= {"strongroom_node_clock_skew_seconds"}
    for secret in (TOKEN, replica_id, sealed.manifest.artifact_id):
        assert secret not in after
    assert scrape(node, "x" * 32).status_code == 401
    platform.unassign(replica_id)
