"""Somebody who can write to the bucket serves another model than the creator sealed.

They know the plain model, say because it was derived from an open one, and where in the file
each weight stands. A stream cipher without its tag would let them choose the weights.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.serving import decryption
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, manifest, signature
from strongroom.sealing.errors import HeaderError, TamperedError
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, linear
from tests.inference.serving.sealed import SealedModel, seal
from tests.sdk.test_floe import CipherWithoutTag

# Length word and nonce stand before each segment's ciphertext.
CIPHERTEXT_AT = 16
BACKDOOR = np.float32(1e6)


def seal_bytes(folder: Path, content: bytes) -> SealedModel:
    return seal(
        folder, {"model.onnx": ("onnx", content)}, runtime="onnx", interface=LINEAR_INTERFACE
    )


def decrypt(sealed: SealedModel) -> bytes:
    """As the serving process does, which has the right key."""
    handles = [os.open(place, os.O_RDONLY) for place in sealed.parts]
    try:
        found = decryption.decrypt_files(
            sealed.manifest,
            handles,
            bytearray(sealed.dek),
            decryption.allocate(sealed.manifest),
            threads=2,
            report=lambda _: None,
        )
        return bytes(found.files[0].data)
    finally:
        for one in handles:
            os.close(one)


def put_backdoor(sealed: SealedModel, plain: bytes) -> None:
    """Turn one weight into another, without the key, by what is known of the plain file."""
    known = WEIGHTS.tobytes()
    at = plain.index(known) + CIPHERTEXT_AT
    body = bytearray(sealed.parts[0].read_bytes())
    wanted = BACKDOOR.tobytes()
    body[at : at + 4] = bytes(
        a ^ b ^ c for a, b, c in zip(body[at : at + 4], known[:4], wanted, strict=True)
    )
    sealed.parts[0].write_bytes(body)


def test_chosen_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = linear()
    sealed = seal_bytes(tmp_path, plain)
    put_backdoor(sealed, plain)

    with pytest.raises(TamperedError):
        decrypt(sealed)

    # The control: a cipher whose tag nobody looks at serves the attacker's model.
    monkeypatch.setattr(floe, "AESGCM", CipherWithoutTag)
    served = decrypt(sealed)
    assert served != plain
    assert BACKDOOR.tobytes() in served


def test_segments_in_another_order_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [bytes([number]) * floe.PRODUCTION.plain_bytes for number in range(3)]
    plain = b"".join(blocks)

    def swap(sealed: SealedModel) -> SealedModel:
        body = sealed.parts[0].read_bytes()
        size = floe.SEGMENT_BYTES
        sealed.parts[0].write_bytes(body[size : 2 * size] + body[:size] + body[2 * size :])
        return sealed

    with pytest.raises(TamperedError):
        decrypt(swap(seal_bytes(tmp_path, plain)))

    # The control: segments that do not know where they belong.
    monkeypatch.setattr(floe, "_segment_aad", lambda *_: b"")
    assert decrypt(swap(seal_bytes(tmp_path, plain))) == blocks[1] + blocks[0] + blocks[2]


@pytest.mark.parametrize("_size_bytes", [0, 16, floe.SEGMENT_BYTES, 2 * floe.SEGMENT_BYTES])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, _size_bytes: int) -> None:
    plain = bytes(3 * floe.PRODUCTION.plain_bytes)
    sealed = seal_bytes(tmp_path, plain)
    # The control: whole, it opens.
    assert decrypt(sealed) == plain

    os.truncate(sealed.parts[0], _size_bytes)

    with pytest.raises(TamperedError):
        decrypt(sealed)


def test_an_older_version_is_not_served_as_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback, to the version whose weakness is known; both have the same size."""

    def roll_back(*, has_one_key: bool) -> SealedModel:
        old, new = (seal_bytes(tmp_path, linear(WEIGHTS * scale)) for scale in (1, 2))
        [file] = old.manifest.files
        dek = old.dek if has_one_key else new.dek
        return replace(new.with_manifest(files=(file,)), parts=old.parts, dek=dek)

    # Whatever the keys are: the file says which version it belongs to.
    for has_one_key in (False, True):
        with pytest.raises(HeaderError) as refused:
            decrypt(roll_back(has_one_key=has_one_key))
        assert refused.value.code == "header_tag_invalid"

    # The control: one key for all versions, and files that name none.
    monkeypatch.setattr(manifest, "file_aad", lambda **_: b"")
    monkeypatch.setattr("tests.inference.serving.sealed.file_aad", lambda **_: b"")
    assert WEIGHTS.tobytes() in decrypt(roll_back(has_one_key=True))


def test_a_manifest_that_names_other_files_is_not_the_creators(tmp_path: Path) -> None:
    sealed = seal_bytes(tmp_path, linear())
    key = signature.generate_signing_key()
    public_key = signature.derive_public_key(key)
    text = sealed.manifest.canonical_bytes()
    signed = signature.sign(key, signature.MANIFEST_TYPE, text)
    changed = sealed.with_manifest(licence="MIT").manifest.canonical_bytes()

    # The control: it is the right signature.
    signature.verify(public_key, signature.MANIFEST_TYPE, text, signed)
    with pytest.raises(StrongroomError):
        signature.verify(public_key, signature.MANIFEST_TYPE, changed, signed)
