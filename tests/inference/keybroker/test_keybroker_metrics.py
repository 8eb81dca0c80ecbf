"""The broker counts what it lends and what it refuses, and tells nobody else."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from embedded import ports
from inference.keybroker import metrics
from inference.keybroker.config import KeyBrokerConfig
from inference.models import Replica
from marketplace.core.clock import utc_now
from marketplace.core.env import SettingError
from marketplace.core.ids import new_id
from tests.inference.keybroker.conftest import Broker, enrol, start_broker

pytestmark = pytest.mark.django_db(transaction=True)

METRICS_TOKEN = "k" * 32


@pytest.fixture
def broker(transactional_db, database_urls, tmp_path):
    port = ports.choose()
    running = start_broker(
        tmp_path,
        database_urls["keybroker"],
        STRONGROOM_KEYBROKER_METRICS_LISTEN=f"127.0.0.1:{port}",
        STRONGROOM_METRICS_TOKEN=METRICS_TOKEN,
    )
    yield running
    running.stop()


def ask(broker: Broker, path: str = "/metrics", token: str = METRICS_TOKEN) -> httpx.Response:
    url = f"http://{broker.environment['STRONGROOM_KEYBROKER_METRICS_LISTEN']}{path}"
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def read(broker: Broker, name: str, **labels: str) -> float:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    line = re.escape(f"strongroom_keybroker_{name}" + (f"{{{inner}}}" if inner else ""))
    found = re.search(rf"^{line} (\S+)$", ask(broker).text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_leases_are_counted_by_how_they_ended(broker: Broker, sealed, node) -> None:
    replica = Replica.objects.create(
        version=sealed.version, node=node.row, purpose=Replica.Purpose.SCAN
    )
    for outcome in ("ok", "not_assigned", "loader_not_allowed", "kms_unavailable"):
        assert read(broker, "leases_total", action="grant", outcome=outcome) == 0

    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)
    assert answer.status_code == 200, answer.text
    refused = node.request(broker, replica, loader_digest="cd" * 32)
    assert broker.post("/v1/leases", refused, token=None).status_code == 403
    stranger = enrol("node-2")
    assert broker.post("/v1/leases", stranger.request(broker, replica), token=None).status_code
    assert broker.post(f"/v1/leases/{new_id()}/renew", {}, token=None).status_code == 422

    assert read(broker, "leases_total", action="grant", outcome="ok") == 1
    assert read(broker, "leases_total", action="grant", outcome="loader_not_allowed") == 1
    assert read(broker, "leases_total", action="grant", outcome="not_assigned") == 1
    assert read(broker, "leases_total", action="renew", outcome="validation") == 1
    assert read(broker, "requests_total", route="grant", status="200") == 1
    assert read(broker, "kms_failures_total") == 0
    page = ask(broker).text
    for secret in (sealed.dek.hex(), answer.json()["sealed_dek"], METRICS_TOKEN, str(node.row.pk)):
        assert secret not in page


def test_addresses_that_strangers_make_up_are_one_series(broker: Broker) -> None:
    for index in range(3):
        broker.post(f"/v1/leases/{index}/hunter2", {}, token=None)

    page = ask(broker).text
    assert "hunter2" not in page
    assert read(broker, "requests_total", route="none", status="404") == 3


def test_strangers_see_nothing(broker: Broker) -> None:
    for token in ("x" * 32, METRICS_TOKEN[:-1], METRICS_TOKEN + "k"):
        assert (ask(broker, token=token).status_code, ask(broker, token=token).text) == (401, "")
    assert ask(broker, "/health").status_code == 404
    # Nor are they where nodes and the web come.
    with broker.client() as client:
        headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        assert client.get("/metrics", headers=headers).status_code == 404


def test_the_end_of_the_certificate_is_told(broker: Broker) -> None:
    path = Path(broker.environment["STRONGROOM_KEYBROKER_TLS_CERT"])
    certificate = x509.load_pem_x509_certificate(path.read_bytes())

    ends_at = read(broker, "certificate_expiry_timestamp_seconds")

    assert ends_at == certificate.not_valid_after_utc.timestamp()
    assert ends_at > (utc_now() + timedelta(days=1)).timestamp()


@pytest.mark.parametrize(
    ("name", "value"),
    [("STRONGROOM_KEYBROKER_METRICS_LISTEN", "9104"), ("STRONGROOM_METRICS_TOKEN", "short")],
)
def test_a_wrong_setting_stops_it_with_its_name(tmp_path, name, value) -> None:
    environment = {
        "STRONGROOM_ENV": "development",
        "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql:///x",
        "STRONGROOM_KEYBROKER_TOKEN": "t",
        "STRONGROOM_KEYBROKER_KMS_DIR": str(tmp_path),
    }
    assert KeyBrokerConfig.from_env(environment).metrics_listen is None
    with pytest.raises(SettingError, match=name):
        KeyBrokerConfig.from_env(environment | {name: value})


def test_every_refusal_of_the_broker_is_there_before_the_first() -> None:
    text = metrics.REGISTRY.render().decode()
    for code in ("evidence_invalid", "signature_invalid", "nonce_replayed", "shredded"):
        assert f'leases_total{{action="grant",outcome="{code}"}}' in text
