"""Wrapped keys open for one recipient, one artifact and one lease, whatever the kind of key."""

from __future__ import annotations

import dataclasses

import pytest

from strongroom.sealing import wrap
from strongroom.sealing.errors import WrapError
from strongroom.sealing.suite import HYBRID, SUITES, X25519, Suite, find_suite
from strongroom.sealing.wrap import WrappedKey

DEK = bytes(range(32))
ARTIFACT = "01890000-0000-7000-8000-000000000001"
OTHER = "01890000-0000-7000-8000-000000000002"

LEASE = {
    "lease_id": "l",
    "node_id": "n",
    "replica_id": "r",
    "artifact_id": ARTIFACT,
    "expires_at": "2026-11-21T03:42:00Z",
}


class Recipient:
    """A key pair, and what is sealed to it."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.private = wrap.generate_private_key(suite)
        self.public = wrap.derive_public_key(self.private, suite)

    def wrapped(self, **changes) -> WrappedKey:
        fields = {
            "artifact_id": ARTIFACT,
            "recipient": "platform",
            "kid": "k1",
            "public_key": self.public,
            "suite": self.suite,
        }
        return wrap.wrap_dek(DEK, **(fields | changes))

    def refuses(self, wrapped, *, private=None, artifact_id=ARTIFACT) -> bool:
        return refused_code(
            wrap.unwrap_dek, wrapped, private or self.private, artifact_id=artifact_id
        ) == ("key_wrap_invalid")


@pytest.fixture(params=SUITES.values(), ids=SUITES)
def recipient(request):
    return Recipient(request.param)


def refused_code(call, *args, **kwargs):
    with pytest.raises(WrapError) as refused:
        call(*args, **kwargs)
    return refused.value.code


def test_a_wrap_opens_for_its_recipient_and_artifact(recipient):
    again = WrappedKey.parse(recipient.wrapped().to_json())

    assert wrap.unwrap_dek(again, recipient.private, artifact_id=ARTIFACT) == DEK
    assert len(again.blob) == recipient.suite.sealed_bytes(len(DEK))


def test_keys_have_the_lengths_that_are_said(recipient):
    assert len(recipient.private) == recipient.suite.private_key_bytes
    assert len(recipient.public) == recipient.suite.public_key_bytes


def test_a_wrap_of_another_version_is_refused(recipient):
    assert recipient.refuses(recipient.wrapped(), artifact_id=OTHER)


def test_a_wrap_for_another_kid_is_refused(recipient):
    assert recipient.refuses(dataclasses.replace(recipient.wrapped(), kid="k2"))


def test_a_wrap_does_not_open_with_another_key(recipient):
    other = Recipient(recipient.suite)

    assert recipient.refuses(recipient.wrapped(), private=other.private)


def test_both_halves_of_the_hybrid_are_needed():
    recipient, other = Recipient(HYBRID), Recipient(HYBRID)
    lattice, curve = slice(0, 64), slice(64, 96)
    for private in (
        recipient.private[lattice] + other.private[curve],
        other.private[lattice] + recipient.private[curve],
    ):
        assert recipient.refuses(recipient.wrapped(), private=private)


def test_a_wrap_is_not_taken_for_one_of_another_suite(recipient):
    other = HYBRID if recipient.suite is X25519 else X25519
    document = recipient.wrapped().to_json() | {"suite": other.name}

    assert refused_code(WrappedKey.parse, document) == "key_wrap_invalid"


# Within the encapsulated key of X25519, and within and after that of the hybrid.
@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, 79, -1, -17, -48, -49])
def test_a_changed_wrap_is_refused(recipient, at):
    blob = bytearray(recipient.wrapped().blob)
    blob[at] ^= 1

    assert recipient.refuses(dataclasses.replace(recipient.wrapped(), blob=bytes(blob)))


@pytest.mark.parametrize("blob", [b"", b"x", bytes(80), bytes(79), bytes(81), bytes(1168)])
def test_garbage_is_refused(recipient, blob):
    code = refused_code(
        wrap.unseal, blob, recipient.private, {"purpose": "x"}, suite=recipient.suite
    )

    assert code == "key_wrap_invalid"


def test_a_key_of_another_length_is_refused(recipient):
    info = wrap.dek_info(artifact_id=ARTIFACT, recipient_kid="k1")
    sealed = wrap.seal(DEK[:16], recipient.public, info, recipient.suite)

    assert recipient.refuses(WrappedKey("platform", "k1", recipient.suite.name, sealed))


def test_the_binding_is_the_infos_work(recipient, monkeypatch):
    """Negative control: without the artifact in the info, the moved wrap would open."""
    monkeypatch.setattr(wrap, "dek_info", lambda **_: {"purpose": "x"})

    moved = wrap.unwrap_dek(recipient.wrapped(), recipient.private, artifact_id=OTHER)
    assert moved == DEK


@pytest.mark.parametrize("field", sorted(LEASE))
def test_a_lease_opens_only_as_itself(field):
    recipient = Recipient(X25519)
    sealed = wrap.seal(DEK, recipient.public, wrap.lease_info(**LEASE))

    assert wrap.unseal(sealed, recipient.private, wrap.lease_info(**LEASE)) == DEK
    changed = wrap.lease_info(**(LEASE | {field: "other"}))
    assert refused_code(wrap.unseal, sealed, recipient.private, changed) == "key_wrap_invalid"


def test_a_lease_is_no_wrap():
    info = wrap.lease_info(**LEASE)

    assert info["purpose"] == "strongroom-lease/1"
    assert wrap.dek_info(artifact_id=ARTIFACT, recipient_kid="k") == {
        "purpose": "strongroom-dek/1",
        "artifact_id": ARTIFACT,
        "recipient_kid": "k",
    }


@pytest.mark.parametrize("public_key", [bytes(32), b"", bytes(31), bytes(33), bytes(1216)])
def test_unusable_public_keys_are_refused(recipient, public_key):
    code = refused_code(wrap.seal, DEK, public_key, {"purpose": "x"}, suite=recipient.suite)

    assert code == "public_key_invalid"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("recipient", "node"),
        ("recipient", []),
        ("kid", ""),
        ("kid", "k" * 81),
        ("kid", 1),
        ("suite", "hpke-none"),
        ("suite", None),
        ("suite", []),
        ("blob", "AAAA"),
        ("blob", None),
        ("extra", 1),
    ],
)
def test_a_malformed_wrap_is_refused(recipient, member, value):
    document = recipient.wrapped().to_json()

    assert refused_code(WrappedKey.parse, document | {member: value}) == "key_wrap_invalid"
    assert refused_code(WrappedKey.parse, [document]) == "key_wrap_invalid"


def test_suites_are_found_by_their_names_alone():
    assert [find_suite(name) for name in SUITES] == list(SUITES.values())
    assert [find_suite(name) for name in ("", "hpke-none", None, 1, [])] == [None] * 5


def test_kid_of_a_key_is_stable():
    assert wrap.derive_kid(bytes(32)) == "66687aadf862bd776c8fc18b8e9f8e20"
