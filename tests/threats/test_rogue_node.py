"""A node that was broken into, or whose key was stolen, asks for keys that it should not have.

It holds a node's signing key and talks to the broker as that node does.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from inference.models import Lease, Node, Replica
from inference.node_certificate import CERTIFICATE_TTL
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion
from strongroom.sealing import wrap
from strongroom.sealing.canonical import decode_base64
from tests.inference.keybroker.conftest import (
    Broker,
    EnrolledNode,
    SealedVersion,
    enrol,
    seal_version,
    start_broker,
)
from tests.inference.keybroker.test_node_identity import ask_for_key, authority_of, issue
from tests.threats.conftest import StartCareless, ask, logged, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def coveted(broker: Broker, sealed: SealedVersion, replica: Replica) -> SealedVersion:
    """A version that is not assigned to the node, which has a replica of another."""
    return seal_version(broker, sealed.account, sealed.model, number=2)


def open_dek(node: EnrolledNode, lease: dict) -> bytes:
    return bytes(wrap.unseal(decode_base64(lease["sealed_dek"]), node.ephemeral, lease["info"]))


def test_a_version_that_is_not_assigned_is_refused_and_the_attempt_is_on_record(
    broker: Broker,
    start_careless: StartCareless,
    node: EnrolledNode,
    replica: Replica,
    coveted: SealedVersion,
) -> None:
    stolen = {"artifact_id": str(coveted.version.pk)}

    answer = ask(broker, node.request(broker, replica, **stolen))

    assert refusal(answer) == (403, "not_assigned")
    assert logged() == [("refused", "not_assigned")]
    assert not Lease.objects.exists()
    # The control: without a look at what is wanted where, every node gets every key.
    careless = start_careless("assignment")
    answer = ask(careless, node.request(careless, replica, **stolen))
    assert open_dek(node, answer.json()) == coveted.dek


def test_the_request_of_another_node_is_refused(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    rogue = enrol("rogue")

    # For the replica of another, in its own name, and in that of the other.
    assert refusal(ask(broker, rogue.request(broker, replica))) == (403, "not_assigned")
    forged = rogue.request(broker, replica, node_id=str(node.row.pk), nonce=node.nonce(broker))
    assert refusal(ask(broker, forged)) == (401, "signature_invalid")
    assert not Lease.objects.exists()
    # The control: signed by the node that it is wanted on, the same request is granted.
    assert ask(broker, node.request(broker, replica)).status_code == 200


def test_a_recorded_request_works_once(
    broker: Broker, start_careless: StartCareless, node: EnrolledNode, replica: Replica
) -> None:
    recorded = node.request(broker, replica)
    assert ask(broker, recorded).status_code == 200

    assert refusal(ask(broker, recorded)) == (409, "nonce_replayed")
    assert Lease.objects.count() == 1
    # The control: where no nonce is used up, it is good for ever.
    assert ask(start_careless("nonce"), recorded).status_code == 200
    assert Lease.objects.count() == 2


def test_a_stolen_key_needs_a_certificate_that_has_not_ended(
    broker: Broker,
    start_careless: StartCareless,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
) -> None:
    day_ago = utc_now() - CERTIFICATE_TTL - timedelta(seconds=2)
    ended = issue(authority_of(broker), node, now=day_ago)

    for shown, code in ((None, "certificate_required"), (ended, "certificate_expired")):
        assert refusal(ask_for_key(broker, node, replica, shown)) == (401, code)
    assert not Lease.objects.exists()
    # The control: where nobody looks at it, the signature is enough.
    careless = start_careless("certificate")
    assert open_dek(node, ask_for_key(careless, node, replica, ended).json()) == sealed.dek


def test_other_serving_code_is_refused_unless_it_lies(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    """What a digest is worth: without evidence it is only the node's word."""
    honest = node.request(broker, replica, loader_digest="cd" * 32)
    assert refusal(ask(broker, honest)) == (403, "loader_not_allowed")

    # The control, and the reason for evidence: the same code, which says another's digest.
    assert ask(broker, node.request(broker, replica)).status_code == 200


def test_a_node_that_collects_keys_raises_an_alarm(
    broker: Broker,
    database_urls: dict[str, str],
    tmp_path: Path,
    node: EnrolledNode,
    replica: Replica,
) -> None:
    setting = {"STRONGROOM_KEYBROKER_RELEASE_ALARM_PER_HOUR": "2"}
    watchful = start_broker(tmp_path, database_urls["keybroker"], **setting)
    try:
        # The control: as often as is usual, and nobody is alarmed.
        for _ in range(2):
            ask(watchful, node.request(watchful, replica))
        assert ("alarm", "release_rate") not in logged()

        ask(watchful, node.request(watchful, replica))
    finally:
        watchful.process.terminate()
        watchful.process.wait(10)

    assert ("alarm", "release_rate") in logged()


def test_what_was_lent_is_not_lent_on(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    def lend() -> str:
        return ask(broker, node.request(broker, replica)).json().get("lease_id", "")

    def renew(lease_id: str) -> tuple[int, str]:
        body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})
        return refusal(broker.post(f"/v1/leases/{lease_id}/renew", body, token=None))

    first, second, third = lend(), lend(), lend()
    # The control: while all is well, each is renewed.
    assert [renew(one) for one in (first, second, third)] == [(200, "")] * 3

    ModelVersion.objects.update(state=ModelVersion.State.WITHDRAWN)
    assert renew(first) == (403, "lease_lost")
    assert logged()[-1] == ("ended", "version_not_approved")
    assert not lend()
    ModelVersion.objects.update(state=ModelVersion.State.ONBOARDING)
    Replica.objects.update(wanted=False)
    assert renew(second) == (403, "lease_lost")
    assert logged()[-1] == ("ended", "not_assigned")
    assert not lend()
    Replica.objects.update(wanted=True)
    revoke(node)
    assert renew(third) == (403, "node_revoked")
    assert not lend()
    # What was lost stays lost.
    assert Lease.objects.get(pk=first).ended_at is not None


def revoke(node: EnrolledNode) -> None:
    """As an administrator does."""
    Node.objects.filter(pk=node.row.pk).update(revoked_at=timezone.now())
