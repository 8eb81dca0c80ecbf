"""Signatures bind bytes to a key and to what kind of thing they are."""

import pytest

from strongroom.sealing import signature
from strongroom.sealing.errors import SignatureError

# RFC 8032 section 7.1, test 1.
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_pae_is_that_of_dsse():
    """The example of the DSSE protocol text."""
    assert signature.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signature_verifies():
    assert signature.derive_public_key(SECRET) == PUBLIC
    signed = signature.sign(SECRET, signature.MANIFEST_TYPE, b"{}")

    signature.verify(PUBLIC, signature.MANIFEST_TYPE, b"{}", signed)

    assert len(signed) == signature.SIGNATURE_BYTES


@pytest.mark.parametrize(
    ("_case", "public_key", "kind", "payload", "cut"),
    [
        ("other bytes", PUBLIC, signature.MANIFEST_TYPE, b"{ }", 64),
        ("other type", PUBLIC, signature.LEASE_REQUEST_TYPE, b"{}", 64),
        ("other key", SECRET, signature.MANIFEST_TYPE, b"{}", 64),
        ("short key", PUBLIC[:31], signature.MANIFEST_TYPE, b"{}", 64),
        ("short signature", PUBLIC, signature.MANIFEST_TYPE, b"{}", 63),
        ("no signature", PUBLIC, signature.MANIFEST_TYPE, b"{}", 0),
    ],
)
def test_what_does_not_verify(_case, public_key, kind, payload, cut):
    signed = signature.sign(SECRET, signature.MANIFEST_TYPE, b"{}")

    with pytest.raises(SignatureError) as refused:
        signature.verify(public_key, kind, payload, signed[:cut])

    assert refused.value.code == "signature_invalid"


def test_fingerprint_is_that_of_the_raw_key():
    assert signature.fingerprint(bytes(32)) == "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"


def test_generated_keys_differ():
    assert signature.generate_signing_key() != signature.generate_signing_key()


def test_payloads_are_canonical():
    payload = signature.upload_key_payload(
        kid="k",
        suite="s",
        public_key="AA==",
        upload_id="u",
        artifact_id="a",
        expires_at="2026-11-21T03:42:00Z",
    )

    assert payload == (
        b'{"artifact_id":"a","expires_at":"2026-11-21T03:42:00Z","kid":"k",'
        b'"public_key":"AA==","suite":"s","upload_id":"u"}'
    )
    assert signature.lease_request_payload({"b": 1, "signature": "x", "a": 2}) == b'{"a":2,"b":1}'
