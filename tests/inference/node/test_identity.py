from __future__ import annotations

import json
from datetime import timedelta

import pytest

from inference.node.errors import IdentityError
from inference.node.identity import IdentityStore
from inference.node_certificate import CertificateError
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from tests.inference.node.platform import AUTHORITY


def test_the_key_is_made_once_and_kept_for_its_owner_alone(tmp_path):
    first = IdentityStore(tmp_path).current

    again = IdentityStore(tmp_path).current

    assert again == first
    assert not again.has_joined
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["identity.json"]


def certify(store, node_id, now=None):
    public_key = decode_base64(store.current.public_key)
    now = now or utc_now().replace(microsecond=0)
    return AUTHORITY.issue(node_id=node_id, name="n", public_key=public_key, now=now)[0]


def test_joining_and_renewing_keep_the_key(tmp_path):
    store = IdentityStore(tmp_path)
    key, first, second = store.current.public_key, new_id(), new_id()

    store.join(node_id=str(first), certificate=certify(store, first))
    token = store.current.token
    newer = certify(store, first)
    assert store.renew(newer).token == token
    store.join(node_id=str(second), certificate=certify(store, second))

    kept = IdentityStore(tmp_path).current
    assert kept == store.current
    assert (kept.node_id, kept.public_key) == (str(second), key)
    assert kept.token != token
    assert kept.has_joined
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600


def test_another_nodes_certificate_is_not_taken(tmp_path):
    store, node_id = IdentityStore(tmp_path), new_id()
    store.join(node_id=str(node_id), certificate=certify(store, node_id))
    before = store.current

    for certificate in (certify(store, new_id()), AUTHORITY.certificate, "", "x"):
        with pytest.raises(CertificateError):
            store.renew(certificate)

    assert IdentityStore(tmp_path).current == store.current == before


def test_a_certificate_is_due_after_a_third_of_its_time(tmp_path):
    store, node_id, now = IdentityStore(tmp_path), new_id(), utc_now().replace(microsecond=0)
    store.join(node_id=str(node_id), certificate=certify(store, node_id, now))

    assert store.current.renew_at == now + timedelta(hours=8)


def test_a_file_of_before_there_were_certificates_has_to_join(tmp_path):
    store = IdentityStore(tmp_path)
    path = tmp_path / "identity.json"
    earlier = json.loads(path.read_text()) | {"node_id": "n1", "token": "snt_x"}
    del earlier["certificate"]
    path.write_text(json.dumps(earlier))

    kept = IdentityStore(tmp_path).current

    assert kept.public_key == store.current.public_key
    assert not kept.has_joined


def test_nothing_secret_is_shown(tmp_path):
    store, node_id = IdentityStore(tmp_path), new_id()
    identity = store.join(node_id=str(node_id), certificate=certify(store, node_id))

    secret = json.loads((tmp_path / "identity.json").read_text())["private_key"]
    assert identity.token not in repr(identity)
    assert secret not in repr(identity)
    assert repr(identity.private_key) not in repr(identity)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"private_key": "AA==", "node_id": "", "token": ""}']
)
def test_a_damaged_file_stops_the_node_instead_of_making_another_one(tmp_path, text):
    path = tmp_path / "identity.json"
    path.write_text(text)

    with pytest.raises(IdentityError):
        IdentityStore(tmp_path)

    assert path.read_text() == text


def test_a_signature_covers_every_member(tmp_path):
    identity = IdentityStore(tmp_path).current
    signed = identity.sign_lease_request({"nonce": "n", "purpose": "serve"})

    def verify(body):
        signature.verify(
            decode_base64(identity.public_key),
            signature.LEASE_REQUEST_TYPE,
            signature.lease_request_payload(body),
            decode_base64(body["signature"]),
        )

    verify(signed)
    for change in ({"purpose": "scan"}, {"nonce": "m"}, {"more": 1}):
        with pytest.raises(signature.SignatureError):
            verify(signed | change)
