from __future__ import annotations

import json

import pytest

from inference.node.errors import IdentityError
from inference.node.identity import IdentityStore
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64


def test_the_key_is_made_once_and_kept_for_its_owner_alone(tmp_path):
    first = IdentityStore(tmp_path).current

    again = IdentityStore(tmp_path).current

    assert again == first
    assert not again.is_enrolled
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["identity.json"]


def test_an_enrolment_keeps_the_key(tmp_path):
    store = IdentityStore(tmp_path)
    key = store.current.public_key

    store.enrol(node_id="n1", token="snt_x")
    store.enrol(node_id="n2", token="snt_y")

    kept = IdentityStore(tmp_path).current
    assert (kept.node_id, kept.token, kept.public_key) == ("n2", "snt_y", key)
    assert kept.is_enrolled
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_shown(tmp_path):
    identity = IdentityStore(tmp_path).enrol(node_id="n1", token="snt_topsecret")

    secret = json.loads((tmp_path / "identity.json").read_text())["private_key"]
    assert "snt_topsecret" not in repr(identity)
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
