from __future__ import annotations

import os
from dataclasses import replace

import pytest

from inference.serving import decryption, memory
from inference.serving.errors import LoadError
from marketplace.core.ids import new_id
from strongroom.sealing import floe, wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.errors import HeaderError, TamperedError, WrapError
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE
from tests.inference.serving.sealed import SealedModel, seal


@pytest.fixture
def sealed(tmp_path) -> SealedModel:
    """A file of two parts, an empty one, and a short one."""
    files = {
        "model.onnx": ("onnx", os.urandom(1000) * 67_000),
        "labels.txt": ("labels", b""),
        "w.bin": ("external_data", b"weights"),
    }
    return seal(tmp_path, files, runtime="onnx", interface=LINEAR_INTERFACE)


@pytest.fixture
def buffers(monkeypatch) -> list[memory.PlainBuffer]:
    """Every buffer that was made for plaintext."""
    made: list[memory.PlainBuffer] = []

    class Recorded(memory.PlainBuffer):
        def __init__(self, size_bytes: int) -> None:
            super().__init__(size_bytes)
            made.append(self)
            # A view of the test's own keeps the pages alive for a look afterwards.
            self.seen = self.view

    monkeypatch.setattr(memory, "PlainBuffer", Recorded)
    return made


@pytest.fixture
def opened(monkeypatch) -> list[int]:
    """Positions of every segment that was given to the cipher."""
    positions: list[int] = []
    original = floe.Message.open_segment

    def record(self, position, *args, **options):
        positions.append(position)
        original(self, position, *args, **options)

    monkeypatch.setattr(floe.Message, "open_segment", record)
    return positions


def decrypt(sealed: SealedModel, dek: bytes | None = None, report=lambda _: None):
    handles = [os.open(place, os.O_RDONLY) for place in sealed.parts]
    try:
        return decryption.decrypt_files(
            sealed.manifest,
            handles,
            bytearray(dek or sealed.dek),
            decryption.allocate(sealed.manifest),
            threads=2,
            report=report,
        )
    finally:
        for one in handles:
            os.close(one)


def test_all_files_come_out_as_they_went_in(sealed, tmp_path):
    shares: list[float] = []

    found = decrypt(sealed, report=shares.append)

    assert [one.path for one in found.files] == ["model.onnx", "labels.txt", "w.bin"]
    assert [len(one.data) for one in found.files] == [67_000_000, 0, 7]
    assert bytes(found.files[0].data[:1000]) == bytes(found.files[0].data[-1000:])
    assert bytes(found.files[2].data) == b"weights"
    assert found.total_bytes == 67_000_007
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) <= 20
    found.wipe()
    assert all(len(one.data) == 0 for one in found.files)


_TAMPERED = {
    "flipped_bit": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "swapped_segments": lambda data: data[1 << 20 : 2 << 20] + data[: 1 << 20] + data[2 << 20 :],
    "repeated_segment": lambda data: data[: 1 << 20] * 2 + data[2 << 20 :],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("_case", _TAMPERED)
def test_changed_part_leaves_no_plaintext(sealed, buffers, _case):
    place = sealed.parts[0]
    place.write_bytes(_TAMPERED[_case](place.read_bytes()))

    with pytest.raises(TamperedError):
        decrypt(sealed)

    assert buffers
    for one in buffers:
        assert bytes(one.seen) == bytes(len(one.seen))


def test_part_that_was_cut_meanwhile_is_an_error_and_no_crash(sealed, buffers):
    os.truncate(sealed.parts[0], 1000)

    with pytest.raises(TamperedError):
        decrypt(sealed)

    assert all(bytes(one.seen) == bytes(len(one.seen)) for one in buffers)


def test_other_key_opens_nothing(sealed, opened):
    with pytest.raises(HeaderError, match="header_tag_invalid"):
        decrypt(sealed, dek=bytes(32))

    assert opened == []


def test_file_of_another_version_is_not_opened(sealed, opened):
    other = sealed.with_manifest(artifact_id=str(new_id()))

    with pytest.raises(HeaderError, match="header_tag_invalid"):
        decrypt(other)

    assert opened == []


def test_file_under_another_name_is_not_opened(sealed, opened):
    first, *rest = sealed.manifest.files
    renamed = sealed.with_manifest(files=(replace(first, path="other.onnx"), *rest))

    with pytest.raises(HeaderError, match="header_tag_invalid"):
        decrypt(renamed)

    assert opened == []


def test_segments_are_counted_where_the_key_fits(sealed, opened):
    decrypt(sealed)

    assert sorted(opened) == sorted([*range(64), 0, 0])


def test_model_larger_than_the_memory_is_refused_before_it_is_allocated(sealed, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: sealed.manifest.plain_size_bytes - 1)

    with pytest.raises(LoadError, match="out_of_memory"):
        decryption.allocate(sealed.manifest)


def test_keys_derived_for_the_files_are_overwritten(sealed, monkeypatch):
    wiped = []
    original = floe.Message.wipe
    monkeypatch.setattr(floe.Message, "wipe", lambda self: wiped.append(original(self)))

    decrypt(sealed)

    assert len(wiped) == 3


# --- The lease ---


_IDS = {
    "lease_id": "l1",
    "node_id": "n1",
    "expires_at": "2026-11-21T04:00:00Z",
}


def make_lease(private_key: bytes, *, dek: bytes = b"k" * 32, **changes: str) -> dict[str, str]:
    ids = _IDS | {"replica_id": "r1", "artifact_id": "a1"} | changes
    info = wrap.lease_info(**ids)
    sealed = wrap.seal(dek, wrap.derive_public_key(private_key), info)
    return {**_IDS, "sealed_dek": encode_base64(sealed)}


def open_lease(lease: dict, private_key: bytes) -> bytearray:
    return decryption.open_lease(lease, private_key=private_key, replica_id="r1", artifact_id="a1")


def test_lease_opens_for_whom_it_was_made():
    key = wrap.generate_private_key()

    assert open_lease(make_lease(key), key) == b"k" * 32


@pytest.mark.parametrize("_member", [*_IDS, "replica_id", "artifact_id"])
def test_lease_for_something_else_does_not_open(_member):
    key = wrap.generate_private_key()

    with pytest.raises(WrapError, match="key_wrap_invalid"):
        open_lease(make_lease(key, **{_member: "other"}), key)


def test_lease_does_not_open_with_another_key():
    with pytest.raises(WrapError, match="key_wrap_invalid"):
        open_lease(make_lease(wrap.generate_private_key()), wrap.generate_private_key())


@pytest.mark.parametrize(
    "_change",
    [{"sealed_dek": "!"}, {"sealed_dek": None}, {"node_id": 7}, {"sealed_dek": "AAAA"}],
)
def test_malformed_lease_is_refused(_change):
    key = wrap.generate_private_key()

    with pytest.raises(LoadError, match="lease_invalid"):
        open_lease(make_lease(key) | _change, key)
