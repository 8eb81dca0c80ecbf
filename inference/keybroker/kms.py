"""Where the keys of models live: a provider that wraps and unwraps, and never lets them out.

The local provider keeps each key in a file of its own, sealed under a root key beside it.
It protects a database, an object store and their backups; it does not protect from whoever
reads this folder. Production uses a KMS or Vault behind the same interface.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize

KEY_BYTES = 32
NONCE_BYTES = 12
REF_PATTERN = re.compile(r"^[a-z0-9][a-z0-9-]{0,79}$")


class KeyDestroyedError(Exception):
    """The key does not exist any more: what it wrapped cannot be opened by anyone."""


class UnwrapError(Exception):
    """The blob was not wrapped under this key for this context."""


class KeyProvider(Protocol):
    """What a KMS must do for us. A `ref` names a key; a context is bound to each wrap."""

    def ensure_key(self, ref: str) -> None:
        """Make the key if there is none; raises KeyDestroyedError if there was one."""

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """Seal up to some kilobytes under the key."""

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """Open what `wrap` sealed under the same context."""

    def destroy(self, ref: str) -> None:
        """Destroy the key for ever; repeating it is harmless."""


class LocalKms:
    """Keys in files of mode 0600, for development and single machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / "keks").mkdir(mode=0o700, exist_ok=True)
        self._root = AESGCM(self._load_or_create("root.key", os.urandom(KEY_BYTES)))

    def ensure_key(self, ref: str) -> None:
        """See `KeyProvider.ensure_key`."""
        path = self._path(ref)
        if path.with_suffix(".destroyed").exists():
            raise KeyDestroyedError(ref)
        if not path.exists():
            _write_new(path, _seal(self._root, os.urandom(KEY_BYTES), {"kek": ref}))

    def wrap(self, ref: str, plain: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.wrap`."""
        return _seal(self._kek(ref), plain, context)

    def unwrap(self, ref: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        """See `KeyProvider.unwrap`."""
        return _open(self._kek(ref), blob, context)

    def destroy(self, ref: str) -> None:
        """See `KeyProvider.destroy`. The marker keeps a new key from taking the name."""
        path = self._path(ref)
        path.with_suffix(".destroyed").touch(mode=0o600)
        with contextlib.suppress(FileNotFoundError):
            # Overwritten first: an unlinked block may stay readable for long.
            with path.open("r+b") as file:
                file.write(os.urandom(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()

    def signing_key(self) -> bytes:
        """The platform's Ed25519 key (raw private half), made at first use."""
        sealed = self._load_or_create(
            "signing.key",
            _seal(self._root, signature.generate_signing_key(), {"signing": "platform"}),
        )
        return _open(self._root, sealed, {"signing": "platform"})

    def _kek(self, ref: str) -> AESGCM:
        try:
            sealed = self._path(ref).read_bytes()
        except FileNotFoundError:
            raise KeyDestroyedError(ref) from None
        return AESGCM(_open(self._root, sealed, {"kek": ref}))

    def _path(self, ref: str) -> Path:
        assert REF_PATTERN.match(ref), "refs are made by us"
        return self._folder / "keks" / f"{ref}.key"

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


def _seal(cipher: AESGCM, plain: bytes, context: Mapping[str, str]) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, canonicalize(dict(context)))


def _open(cipher: AESGCM, blob: bytes, context: Mapping[str, str]) -> bytes:
    try:
        return cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], canonicalize(dict(context)))
    except (InvalidTag, ValueError):
        raise UnwrapError from None
