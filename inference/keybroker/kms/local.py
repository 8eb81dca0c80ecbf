"""Keys in files: for development and single machines.

Each key is a file of its own, sealed under a root key beside it. That protects a database, an
object store and their backups; it does not protect from whoever reads this folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from inference.keybroker.errors import KmsUnavailableError
from inference.keybroker.kms.base import KeyDestroyedError, UnwrapError, check_ref
from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize

KEY_BYTES = 32
NONCE_BYTES = 12


class LocalKms:
    """Keys in files of mode 0600."""

    name: ClassVar[str] = "local"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / "keks").mkdir(mode=0o700, exist_ok=True)
        self._root = AESGCM(self._load_or_create("root.key", os.urandom(KEY_BYTES)))

    def ensure_key(self, ref: str) -> None:
        """See `KeyProvider.ensure_key`."""
        path = self._path(ref)
        if self.is_destroyed(ref):
            raise KeyDestroyedError(ref)
        # Of several that make it at once, the first one wins.
        with contextlib.suppress(FileExistsError):
            if not path.exists():
                _write_new(path, _seal(self._root, os.urandom(KEY_BYTES), {"kek": ref}))

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.wrap`."""
        return _seal(self._kek(ref), plain, context)

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.unwrap`."""
        return _open(self._kek(ref), blob, context)

    def destroy(self, ref: str) -> datetime | None:
        """See `KeyProvider.destroy`. The marker keeps a new key from taking the name."""
        path = self._path(ref)
        path.with_suffix(".destroyed").touch(mode=0o600)
        _sync_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            # Overwritten first: an unlinked block may stay readable for long.
            with path.open("r+b") as file:
                file.write(os.urandom(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            _sync_folder(path.parent)
        return None

    def is_destroyed(self, ref: str) -> bool:
        """See `KeyProvider.is_destroyed`."""
        return self._path(ref).with_suffix(".destroyed").exists()

    def signing_key(self) -> bytes:
        """The platform's Ed25519 key (raw private half), made at first use."""
        sealed = self._load_or_create(
            "signing.key",
            _seal(self._root, signature.generate_signing_key(), {"signing": "platform"}),
        )
        return _open(self._root, sealed, {"signing": "platform"})

    def _kek(self, ref: str) -> AESGCM:
        if self.is_destroyed(ref):
            raise KeyDestroyedError(ref)
        try:
            return AESGCM(_open(self._root, self._path(ref).read_bytes(), {"kek": ref}))
        except (OSError, UnwrapError) as error:
            # Never made here, or damaged: another folder may be the right one.
            raise KmsUnavailableError("The key store has no such key.") from error

    def _path(self, ref: str) -> Path:
        return self._folder / "keks" / f"{check_ref(ref)}.key"

    def _load_or_create(self, name: str, content: bytes) -> bytes:
        path = self._folder / name
        with contextlib.suppress(FileExistsError):
            _write_new(path, content)
        return path.read_bytes()


def _write_new(path: Path, content: bytes) -> None:
    # Linked into place whole: a crash leaves no half-written key, and the first one wins.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    # Else a power cut could bring a destroyed key's file back, or lose its marker.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(cipher: AESGCM, plain: bytes, context: Mapping[str, str]) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, canonicalize(dict(context)))


def _open(cipher: AESGCM, blob: bytes, context: Mapping[str, str]) -> bytes:
    try:
        return cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], canonicalize(dict(context)))
    except (InvalidTag, ValueError):
        raise UnwrapError from None
