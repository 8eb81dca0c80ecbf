"""Somebody between node and key broker reads, keeps and changes all that goes by."""

from __future__ import annotations

from typing import Any

import pytest

from inference.models import Lease, Replica
from strongroom.errors import StrongroomError
from strongroom.sealing import wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.keybroker.conftest import Broker, EnrolledNode, SealedVersion
from tests.threats.conftest import StartCareless, ask, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def captured(broker: Broker, node: EnrolledNode, replica: Replica) -> dict[str, Any]:
    """The broker's answer, as it went over the wire."""
    answer = ask(broker, node.request(broker, replica))
    assert answer.status_code == 200, answer.text
    return answer.json()


def try_open(lease: dict[str, Any], private_key: bytes, **changes: str) -> bytes | None:
    info = lease["info"] | changes
    try:
        return bytes(wrap.unseal(decode_base64(lease["sealed_dek"]), private_key, info))
    except StrongroomError:
        return None


def test_a_captured_answer_opens_with_no_key_that_outlives_the_load(
    captured: dict[str, Any], node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    # Of the wire: neither the key nor anything that it could be guessed from.
    assert sealed.dek.hex() not in str(captured)
    assert encode_base64(sealed.dek) not in str(captured)
    # The node's own key, stolen later, does not help, nor does any other.
    assert try_open(captured, node.private_key) is None
    assert try_open(captured, wrap.generate_private_key()) is None
    # Nor does the right key, where the answer is passed off as another lease's.
    for member in captured["info"]:
        assert try_open(captured, node.ephemeral, **{member: "another"}) is None
    # The control: the serving process' own key does, which is gone after the load.
    assert try_open(captured, node.ephemeral) == sealed.dek


def test_a_key_put_in_on_the_way_is_refused(
    broker: Broker,
    start_careless: StartCareless,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
) -> None:
    mine = wrap.generate_private_key()
    put_in = {"ephemeral_public_key": encode_base64(wrap.derive_public_key(mine))}

    answer = ask(broker, node.request(broker, replica) | put_in)

    assert refusal(answer) == (401, "signature_invalid")
    assert not Lease.objects.exists()
    # The control: where nobody looks at the signature, the key is sealed to the attacker.
    careless = start_careless("signature")
    answer = ask(careless, node.request(careless, replica) | put_in)
    assert try_open(answer.json(), mine) == sealed.dek
