from __future__ import annotations

from pathlib import Path

import pytest

from inference.keybroker.kms import KeyDestroyedError, LocalKms, UnwrapError

CONTEXT = {"artifact_id": "a", "kid": "k"}


@pytest.fixture
def kms(tmp_path: Path) -> LocalKms:
    kms = LocalKms(tmp_path / "kms")
    kms.ensure_key("model-1")
    return kms


def test_wrap_and_unwrap_survive_a_restart(kms: LocalKms, tmp_path: Path) -> None:
    blob = kms.wrap("model-1", b"secret", CONTEXT)
    again = LocalKms(tmp_path / "kms")
    again.ensure_key("model-1")

    assert again.unwrap("model-1", blob, CONTEXT) == b"secret"
    assert again.signing_key() == kms.signing_key()


@pytest.mark.parametrize("context", [{**CONTEXT, "kid": "other"}, {"artifact_id": "a"}, {}])
def test_another_context_does_not_open(kms: LocalKms, context: dict[str, str]) -> None:
    blob = kms.wrap("model-1", b"secret", CONTEXT)

    with pytest.raises(UnwrapError):
        kms.unwrap("model-1", blob, context)


def test_another_models_key_does_not_open(kms: LocalKms) -> None:
    kms.ensure_key("model-2")
    blob = kms.wrap("model-1", b"secret", CONTEXT)

    with pytest.raises(UnwrapError):
        kms.unwrap("model-2", blob, CONTEXT)


@pytest.mark.parametrize("place", [0, 11, 12, -1])
def test_a_changed_blob_does_not_open(kms: LocalKms, place: int) -> None:
    blob = bytearray(kms.wrap("model-1", b"secret", CONTEXT))
    blob[place] ^= 1

    with pytest.raises(UnwrapError):
        kms.unwrap("model-1", bytes(blob), CONTEXT)


def test_a_destroyed_key_is_gone_for_ever(kms: LocalKms, tmp_path: Path) -> None:
    blob = kms.wrap("model-1", b"secret", CONTEXT)

    kms.destroy("model-1")
    kms.destroy("model-1")

    for provider in (kms, LocalKms(tmp_path / "kms")):
        with pytest.raises(KeyDestroyedError):
            provider.unwrap("model-1", blob, CONTEXT)
        with pytest.raises(KeyDestroyedError):
            provider.ensure_key("model-1")


def test_only_the_owner_may_read_the_files(kms: LocalKms, tmp_path: Path) -> None:
    kms.signing_key()

    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "kms").rglob("*.key")}
    assert modes == {0o600}
    assert (tmp_path / "kms").stat().st_mode & 0o777 == 0o700


def test_no_key_lies_in_the_clear_except_the_root(kms: LocalKms, tmp_path: Path) -> None:
    signing_key = kms.signing_key()

    for path in (tmp_path / "kms").rglob("*.key"):
        assert signing_key not in path.read_bytes()
