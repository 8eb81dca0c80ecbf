"""A version was deleted, and somebody brings its rows back from a backup."""

from __future__ import annotations

from typing import Any

import pytest

from inference.models import KeyShred, Replica, UploadKey, WrappedKey
from marketplace.models import ModelVersion
from tests.inference.keybroker import thief
from tests.inference.keybroker.conftest import Broker, EnrolledNode, SealedVersion
from tests.inference.keybroker.test_release_log import as_insider
from tests.inference.keybroker.test_shredding import back_up, restore, shred, withdraw
from tests.threats.conftest import ask, logged, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def loot(broker: Broker, database_urls: dict[str, str]) -> dict[str, str]:
    """The database, restored from its backup, and the key store as it is now."""
    return {"DUMP": database_urls["owner"], thief.KEY_STORE: str(broker.kms_dir)}


def test_what_was_shredded_comes_back_from_no_backup(
    broker: Broker,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    loot: dict[str, str],
    database_urls: dict[str, str],
) -> None:
    version_id = str(sealed.version.pk)
    lease_id = ask(broker, node.request(broker, replica)).json()["lease_id"]
    # The control: until then, the dump and the key store open it.
    assert thief.steal(version_id, loot)["dek"] == sealed.dek.hex()
    backup = back_up(database_urls["owner"])
    withdraw(sealed)

    answer = shred(broker, sealed.model, sealed)

    assert answer.status_code == 200, answer.text
    assert KeyShred.objects.get().artifact_id == sealed.version.pk
    assert logged()[-1] == ("ended", "shredded")
    body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})
    renewed = broker.post(f"/v1/leases/{lease_id}/renew", body, token=None)
    assert refusal(renewed) == (410, "shredded")
    # Last night's tables, which know nothing of it, and a version that is wanted again.
    restore(database_urls["owner"], backup)
    ModelVersion.objects.update(state=ModelVersion.State.ONBOARDING)
    Replica.objects.update(wanted=True)
    assert not KeyShred.objects.exists()
    assert thief.steal(version_id, loot)["dek"] is None
    assert refusal(ask(broker, node.request(broker, replica))) == (410, "shredded")


def test_to_delete_the_rows_alone_is_not_enough(
    broker: Broker,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    loot: dict[str, str],
) -> None:
    """The control: a deletion that leaves the model's key; the backup brings all back."""
    version_id = str(sealed.version.pk)
    backup: list[Any] = [*UploadKey.objects.all(), *WrappedKey.objects.all()]
    for table in ("inference_uploadkey", "inference_wrappedkey"):
        as_insider(table, f"DELETE FROM {table}")
    assert thief.steal(version_id, loot)["dek"] is None

    for row in backup:
        type(row).objects.bulk_create([row])

    assert thief.steal(version_id, loot)["dek"] == sealed.dek.hex()
    assert ask(broker, node.request(broker, replica)).status_code == 200
