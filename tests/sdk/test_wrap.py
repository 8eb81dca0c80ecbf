"""Wrapped keys open for one recipient, one artifact and one lease."""

import pytest

from strongroom.sealing import wrap
from strongroom.sealing.errors import WrapError
from strongroom.sealing.wrap import WrappedKey

DEK = bytes(range(32))
ARTIFACT = "01890000-0000-7000-8000-000000000001"
OTHER = "01890000-0000-7000-8000-000000000002"
PRIVATE = wrap.generate_private_key()
PUBLIC = wrap.derive_public_key(PRIVATE)

LEASE = {
    "lease_id": "l",
    "node_id": "n",
    "replica_id": "r",
    "artifact_id": ARTIFACT,
    "expires_at": "2026-11-21T03:42:00Z",
}


def wrapped(**changes):
    fields = {
        "artifact_id": ARTIFACT,
        "recipient": "platform",
        "kid": "k1",
        "public_key": PUBLIC,
    }
    return wrap.wrap_dek(DEK, **(fields | changes))


def test_a_wrap_opens_for_its_recipient_and_artifact():
    again = WrappedKey.parse(wrapped().to_json())

    assert wrap.unwrap_dek(again, PRIVATE, artifact_id=ARTIFACT) == DEK
    assert len(again.blob) == wrap.WRAP_BYTES


def refused_code(call, *args, **kwargs):
    with pytest.raises(WrapError) as refused:
        call(*args, **kwargs)
    return refused.value.code


def test_a_wrap_of_another_version_is_refused():
    assert refused_code(wrap.unwrap_dek, wrapped(), PRIVATE, artifact_id=OTHER) == (
        "key_wrap_invalid"
    )


def test_a_wrap_for_another_kid_is_refused():
    moved = WrappedKey("platform", "k2", wrap.SUITE, wrapped().blob)

    assert refused_code(wrap.unwrap_dek, moved, PRIVATE, artifact_id=ARTIFACT) == (
        "key_wrap_invalid"
    )


def test_a_wrap_does_not_open_with_another_key():
    other = wrap.generate_private_key()

    assert refused_code(wrap.unwrap_dek, wrapped(), other, artifact_id=ARTIFACT) == (
        "key_wrap_invalid"
    )


@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, 79])
def test_a_changed_wrap_is_refused(at):
    blob = bytearray(wrapped().blob)
    blob[at] ^= 1
    changed = WrappedKey("platform", "k1", wrap.SUITE, bytes(blob))

    assert refused_code(wrap.unwrap_dek, changed, PRIVATE, artifact_id=ARTIFACT) == (
        "key_wrap_invalid"
    )


@pytest.mark.parametrize("blob", [b"", b"x", bytes(80), bytes(79), bytes(81)])
def test_garbage_is_refused(blob):
    assert refused_code(wrap.unseal, blob, PRIVATE, {"purpose": "x"}) == "key_wrap_invalid"


def test_a_key_of_another_length_is_refused():
    info = wrap.dek_info(artifact_id=ARTIFACT, recipient_kid="k1")
    short = WrappedKey("platform", "k1", wrap.SUITE, wrap.seal(DEK[:16], PUBLIC, info))

    assert refused_code(wrap.unwrap_dek, short, PRIVATE, artifact_id=ARTIFACT) == (
        "key_wrap_invalid"
    )


def test_the_binding_is_the_infos_work(monkeypatch):
    """Negative control: without the artifact in the info, the moved wrap would open."""
    monkeypatch.setattr(wrap, "dek_info", lambda **_: {"purpose": "x"})

    assert wrap.unwrap_dek(wrapped(), PRIVATE, artifact_id=OTHER) == DEK


@pytest.mark.parametrize("field", sorted(LEASE))
def test_a_lease_opens_only_as_itself(field):
    sealed = wrap.seal(DEK, PUBLIC, wrap.lease_info(**LEASE))

    assert wrap.unseal(sealed, PRIVATE, wrap.lease_info(**LEASE)) == DEK
    changed = wrap.lease_info(**(LEASE | {field: "other"}))
    assert refused_code(wrap.unseal, sealed, PRIVATE, changed) == "key_wrap_invalid"


def test_a_lease_is_no_wrap():
    info = wrap.lease_info(**LEASE)

    assert info["purpose"] == "strongroom-lease/1"
    assert wrap.dek_info(artifact_id=ARTIFACT, recipient_kid="k") == {
        "purpose": "strongroom-dek/1",
        "artifact_id": ARTIFACT,
        "recipient_kid": "k",
    }


@pytest.mark.parametrize("public_key", [bytes(32), b"", bytes(31), bytes(33)])
def test_unusable_public_keys_are_refused(public_key):
    assert refused_code(wrap.seal, DEK, public_key, {"purpose": "x"}) == "public_key_invalid"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("recipient", "node"),
        ("recipient", []),
        ("kid", ""),
        ("kid", "k" * 81),
        ("kid", 1),
        ("suite", "hpke-none"),
        ("blob", "AAAA"),
        ("blob", None),
        ("extra", 1),
    ],
)
def test_a_malformed_wrap_is_refused(member, value):
    assert refused_code(WrappedKey.parse, wrapped().to_json() | {member: value}) == (
        "key_wrap_invalid"
    )
    assert refused_code(WrappedKey.parse, [wrapped().to_json()]) == "key_wrap_invalid"


def test_kid_of_a_key_is_stable():
    assert wrap.derive_kid(bytes(32)) == "66687aadf862bd776c8fc18b8e9f8e20"
