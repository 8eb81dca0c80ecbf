"""The kind of key pair that a broker makes for uploads is a setting; what was made stays good."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inference.keybroker.config import KeyBrokerConfig
from inference.models import Replica, UploadKey, WrappedKey
from marketplace.core.env import SettingError
from marketplace.core.ids import new_id
from strongroom.sealing import wrap
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.suite import HYBRID, X25519
from tests.inference.keybroker.conftest import (
    Broker,
    EnrolledNode,
    SealedVersion,
    seal_version,
    start_broker,
)

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = {
    "STRONGROOM_ENV": "development",
    "STRONGROOM_KEYBROKER_DATABASE_URL": "postgresql:///x",
    "STRONGROOM_KEYBROKER_TOKEN": "t" * 32,
    "STRONGROOM_KEYBROKER_KMS_DIR": "kms",
}


@pytest.fixture
def hybrid_broker(
    broker: Broker, database_urls: dict[str, str], tmp_path: Path
) -> Iterator[Broker]:
    """A second broker over the same keys, with the other setting."""
    running = start_broker(
        tmp_path, database_urls["keybroker"], STRONGROOM_KEYBROKER_SUITE=HYBRID.name
    )
    yield running
    running.stop()


def check(broker: Broker, version: SealedVersion) -> tuple[int, object]:
    answer = broker.post("/v1/upload-keys/check", {"artifact_id": str(version.version.pk)})
    return answer.status_code, answer.json().get("code")


def test_a_hybrid_pair_is_made_signed_and_opened(
    hybrid_broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    hybrid = seal_version(hybrid_broker, sealed.account, sealed.model, number=2)

    assert hybrid.kem["suite"] == HYBRID.name
    assert len(decode_base64(hybrid.kem["public_key"])) == HYBRID.public_key_bytes
    assert check(hybrid_broker, hybrid) == (200, None)
    # A lease is sealed to the serving process' own key, whatever the upload's is.
    Replica.objects.filter(pk=replica.pk).update(version=hybrid.version)
    replica.refresh_from_db()
    answer = hybrid_broker.post("/v1/leases", node.request(hybrid_broker, replica), token=None)
    assert answer.status_code == 200, answer.text
    lease = answer.json()
    opened = wrap.unseal(decode_base64(lease["sealed_dek"]), node.ephemeral, lease["info"])
    assert opened == hybrid.dek


def test_what_was_sealed_before_the_setting_changed_opens(
    broker: Broker, hybrid_broker: Broker, sealed: SealedVersion
) -> None:
    hybrid = seal_version(hybrid_broker, sealed.account, sealed.model, number=2)

    assert sealed.kem["suite"] == X25519.name
    assert check(hybrid_broker, sealed) == (200, None)
    assert check(broker, hybrid) == (200, None)


def make_pair(broker: Broker, sealed: SealedVersion, suites: object) -> tuple[int, object]:
    """What a client that can make these wraps is answered."""
    body = {
        "upload_id": str(new_id()),
        "artifact_id": str(new_id()),
        "account_id": str(sealed.account.pk),
        "model_id": str(sealed.model.pk),
        "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "suites": suites,
    }
    answer = broker.post("/v1/upload-keys", body).json()
    return answer.get("status", 200), answer.get("suite") or answer["code"]


def test_the_client_says_which_wraps_it_can_make(
    broker: Broker, hybrid_broker: Broker, sealed: SealedVersion
) -> None:
    both = [X25519.name, HYBRID.name]

    assert make_pair(hybrid_broker, sealed, [X25519.name]) == (200, X25519.name)
    assert make_pair(broker, sealed, [HYBRID.name, "hpke-later"]) == (200, HYBRID.name)
    # What the platform asks for is taken wherever it is understood.
    assert make_pair(hybrid_broker, sealed, both) == (200, HYBRID.name)
    assert make_pair(broker, sealed, both) == (200, X25519.name)
    assert make_pair(hybrid_broker, sealed, None) == (200, HYBRID.name)


def test_a_client_without_a_known_wrap_is_refused(broker: Broker, sealed: SealedVersion) -> None:
    before = UploadKey.objects.count()

    assert make_pair(broker, sealed, ["hpke-later", 7, None]) == (422, "suite_unsupported")
    assert make_pair(broker, sealed, []) == (422, "suite_unsupported")
    assert make_pair(broker, sealed, "hpke") == (422, "validation")
    assert UploadKey.objects.count() == before


def test_a_wrap_that_names_another_suite_than_its_key_is_refused(
    broker: Broker, sealed: SealedVersion
) -> None:
    WrappedKey.objects.update(suite=HYBRID.name)
    assert check(broker, sealed) == (422, "key_wrap_invalid")

    # The control: with the key's suite changed as well it is still no wrap of that suite.
    UploadKey.objects.update(suite=HYBRID.name)
    assert check(broker, sealed) == (422, "key_wrap_invalid")


def test_the_suite_is_a_known_one() -> None:
    assert KeyBrokerConfig.from_env(SETTINGS).suite is X25519
    chosen = KeyBrokerConfig.from_env(SETTINGS | {"STRONGROOM_KEYBROKER_SUITE": HYBRID.name})
    assert chosen.suite is HYBRID
    with pytest.raises(SettingError, match="STRONGROOM_KEYBROKER_SUITE"):
        KeyBrokerConfig.from_env(SETTINGS | {"STRONGROOM_KEYBROKER_SUITE": "hpke-none"})
