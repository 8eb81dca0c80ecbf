r"""One sealed file of a backup: a data key wrapped for the backup's key, then FLOE segments.

```
strongroom-backup/1\n | length of the wrap (2 bytes) | wrap | FLOE header | segments
```

The wrap is bound to the file's name in its backup, so that no file can stand in for another.
Sealing needs the public key only: a machine that is broken into cannot read the backups it made.
It could make others, which nobody can tell from true ones.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from embedded.errors import StartError
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64

MAGIC = b"strongroom-backup/1\n"
_PUBLIC_PREFIX, _PRIVATE_PREFIX = "strongroom-backup-public ", "strongroom-backup-private "
_LENGTH = struct.Struct(">H")


class BackupError(StartError):
    """It cannot be made, read or restored; the text says why."""


def make_keys(public: Path, private: Path) -> str:
    """Make a key pair in two files that do not exist; returns the public key's id."""
    for path in (public, private):
        if path.exists():
            raise BackupError(f"{path} exists: backups made with that key would be lost")
    secret = wrap.generate_private_key()
    known = wrap.derive_public_key(secret)
    _write_new(private, _PRIVATE_PREFIX + encode_base64(secret) + "\n", 0o600)
    _write_new(public, _PUBLIC_PREFIX + encode_base64(known) + "\n", 0o644)
    return wrap.derive_kid(known)


def read_public_key(path: Path) -> bytes:
    """The key to seal for."""
    return _read_key(path, _PUBLIC_PREFIX)


def read_private_key(path: Path) -> bytes:
    """The key to open with."""
    return _read_key(path, _PRIVATE_PREFIX)


def seal_stream(
    source: IO[bytes], target: Path, *, name: str, public_key: bytes
) -> tuple[int, str]:
    """Seal all of a stream into a file that appears when it is complete.

    Args:
        source: Read to its end.
        target: Must not exist.
        name: Of the file in its backup; needed again to open it.
        public_key: Of the backups.

    Returns:
        Size in bytes and SHA-256 (hex) of the sealed file.
    """
    dek = bytearray(os.urandom(floe.KEY_BYTES))
    blob = wrap.seal(dek, public_key, _info(name))
    message = floe.Message.start(dek, _aad(name))
    draft = target.with_name(target.name + ".new")
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with draft.open("wb") as file:
            draft.chmod(0o600)
            for piece in _sealed_pieces(message, blob, source):
                file.write(piece)
                digest.update(piece)
                size_bytes += len(piece)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(target)
    finally:
        message.wipe()
        dek[:] = bytes(len(dek))
        draft.unlink(missing_ok=True)
    return size_bytes, digest.hexdigest()


def open_stream(
    source: Path, *, name: str, private_key: bytes, write: Callable[[memoryview], object]
) -> int:
    """Open a sealed file piece by piece; each piece is authentic when it is handed over.

    Returns:
        How many bytes were handed over.

    Raises:
        BackupError: Another key, another file, or changed, cut or lengthened. What was handed
            over before is true, but not all.
    """
    try:
        with source.open("rb") as file:
            return _open(file, name, private_key, write)
    except (StrongroomError, OSError, struct.error, ValueError) as error:
        raise BackupError(f"{source.name} cannot be opened: {error}") from error


def _sealed_pieces(
    message: floe.Message, blob: bytes, source: IO[bytes]
) -> Iterator[bytes | bytearray]:
    yield MAGIC + _LENGTH.pack(len(blob)) + blob + message.header
    plain_bytes, position = message.parameters.plain_bytes, 0
    plain = _read_full(source, plain_bytes)
    while True:
        following = _read_full(source, plain_bytes) if len(plain) == plain_bytes else b""
        yield message.seal_segment(position, plain, is_final=not following)
        if not following:
            return
        plain, position = following, position + 1


def _open(
    file: IO[bytes], name: str, private_key: bytes, write: Callable[[memoryview], object]
) -> int:
    if file.read(len(MAGIC)) != MAGIC:
        raise BackupError("it is no sealed file of a backup")
    blob = file.read(_LENGTH.unpack(file.read(_LENGTH.size))[0])
    dek = wrap.unseal(blob, private_key, _info(name))
    message = floe.Message.open(dek, _aad(name), file.read(floe.HEADER_BYTES))
    segment_bytes, position, total = message.parameters.segment_bytes, 0, 0
    sealed = _read_full(file, segment_bytes)
    try:
        while True:
            following = _read_full(file, segment_bytes) if len(sealed) == segment_bytes else b""
            plain = memoryview(bytearray(max(0, len(sealed) - floe.OVERHEAD_BYTES)))
            message.open_segment(position, sealed, plain, is_final=not following)
            write(plain)
            total += len(plain)
            if not following:
                return total
            sealed, position = following, position + 1
    finally:
        message.wipe()
        dek[:] = bytes(len(dek))


def _read_full(source: IO[bytes], size_bytes: int) -> bytes:
    """As many bytes, fewer only at the end: a pipe gives what it has."""
    pieces, missing = [], size_bytes
    while missing:
        piece = source.read(missing)
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _info(name: str) -> dict[str, str]:
    return {"purpose": "strongroom-backup/1", "name": name}


def _aad(name: str) -> bytes:
    return b"strongroom-backup/1\0" + name.encode()


def _read_key(path: Path, prefix: str) -> bytes:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise BackupError(f"the key {path} cannot be read: {error.strerror}") from error
    if not text.startswith(prefix):
        raise BackupError(f"{path} is not a {prefix.strip().replace('-', ' ')} key")
    try:
        return decode_base64(text.removeprefix(prefix), size_bytes=32)
    except StrongroomError as error:
        raise BackupError(f"{path} is damaged") from error


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
