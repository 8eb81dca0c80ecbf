"""Somebody has the whole database and the object store, and changes rows where it helps.

The dump holds every wrapped data key and every private half to which one was wrapped; what it
does not hold are the models' keys, which are in the key store.
"""

from __future__ import annotations

from typing import Any

import pytest

from inference.models import Replica, UploadKey, WrappedKey
from strongroom.sealing import wrap
from strongroom.sealing.canonical import decode_base64
from tests.inference.keybroker import thief
from tests.inference.keybroker.conftest import Broker, EnrolledNode, SealedVersion, seal_version
from tests.inference.keybroker.test_release_log import as_insider
from tests.threats.conftest import StartCareless, ask, refusal

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_dump_opens_nothing_without_the_key_store(
    broker: Broker, sealed: SealedVersion, database_urls: dict[str, str]
) -> None:
    dump = {"DUMP": database_urls["owner"]}
    version_id = str(sealed.version.pk)

    found = thief.steal(version_id, dump)

    # Every row was read: no right was lacking, and no key was found.
    assert found["dek"] is None
    assert not [one for one in found["met_with"] if "denied" in one]
    # The control: the dump together with the key store.
    key_store = {thief.KEY_STORE: str(broker.kms_dir)}
    assert thief.steal(version_id, dump | key_store)["dek"] == sealed.dek.hex()


def move_keys(victim: SealedVersion, mine: SealedVersion) -> None:
    """Put the victim's wrapped key, and all that opens it, into the rows of another version."""
    key = UploadKey.objects.get(artifact_id=victim.version.pk)
    wrapped = WrappedKey.objects.get(version=victim.version)
    as_insider(
        "inference_uploadkey",
        "UPDATE inference_uploadkey SET kid = kid || 'x' WHERE artifact_id = %s",
        str(victim.version.pk),
    )
    UploadKey.objects.filter(artifact_id=mine.version.pk).update(
        kid=key.kid,
        public_key=key.public_key,
        kek_ref=key.kek_ref,
        sealed_private_key=bytes(key.sealed_private_key),
    )
    WrappedKey.objects.filter(version=mine.version).update(kid=wrapped.kid, blob=wrapped.blob)


@pytest.fixture
def seal_two(sealed: SealedVersion, node: EnrolledNode) -> Any:
    """A victim's version, and one of the attacker's that is assigned to the attacker's node."""

    def make(broker: Broker) -> tuple[SealedVersion, Replica]:
        victim, mine = (
            seal_version(broker, sealed.account, sealed.model, number=number) for number in (2, 3)
        )
        replica = Replica.objects.create(version=mine.version, node=node.row, purpose="scan")
        move_keys(victim, mine)
        return victim, replica

    return make


def test_a_key_moved_to_another_versions_rows_does_not_open(
    broker: Broker, node: EnrolledNode, seal_two: Any
) -> None:
    _, replica = seal_two(broker)

    assert refusal(ask(broker, node.request(broker, replica))) == (422, "key_wrap_invalid")


def test_without_their_contexts_it_would(
    start_careless: StartCareless,
    node: EnrolledNode,
    seal_two: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: wraps that are bound to nothing, on the creator's side as well."""
    careless = start_careless("context")
    monkeypatch.setattr(wrap, "dek_info", lambda **_: {})
    victim, replica = seal_two(careless)

    lease = ask(careless, node.request(careless, replica)).json()

    opened = wrap.unseal(decode_base64(lease["sealed_dek"]), node.ephemeral, lease["info"])
    assert opened == victim.dek
