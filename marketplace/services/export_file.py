"""The files of an archive: written as CSV or JSON row by row, sealed before they are stored.

The object store gets ciphertext only. Each archive has a key of its own, which stands in its
row, sealed by the platform's secret: deleting the key deletes every copy of the archive.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from marketplace.core import limits
from marketplace.core.errors import PayloadTooLargeError
from marketplace.errors import ExportGoneError
from marketplace.services.exporter import Row
from strongroom.sealing import floe

FOLDER = "exports"
# What is gathered before it is hashed and sealed.
CHUNK_BYTES = 256 * 1024
_NONCE_BYTES = 12
# A spreadsheet takes what begins so for a formula, and runs it.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the store, and what it is when it is opened."""

    name: str
    size_bytes: int
    sha256: str


class TooMuchDataError(PayloadTooLargeError):
    code = "export_too_large"
    title = "The account has more data than one archive holds. Write to the platform."


def storage() -> Storage:
    """Where archives lie, beside the sealed models."""
    return storages["artifacts"]


def seal_key(export_id: UUID) -> bytes:
    """A new key for an archive, sealed by the platform's secret and bound to the archive."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher().encrypt(nonce, secrets.token_bytes(floe.KEY_BYTES), export_id.bytes)


def open_key(export_id: UUID, sealed: bytes) -> bytes:
    """The key of an archive.

    Raises:
        ExportGoneError: It was deleted, or the platform's secret was changed since.
    """
    try:
        return _cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], export_id.bytes)
    except (InvalidTag, ValueError) as error:
        raise ExportGoneError from error


def write_csv(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[bytes]:
    """Rows as CSV in pieces; no cell is a formula."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        if buffer.tell() >= CHUNK_BYTES:
            yield _take(buffer)
    yield _take(buffer)


def write_json(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[bytes]:
    """Rows as an array of objects in pieces, one object on a line."""
    buffer = io.StringIO(newline="")
    buffer.write("[")
    separator = "\n"
    for row in rows:
        buffer.write(separator)
        members = dict(zip(columns, row, strict=True))
        buffer.write(json.dumps(members, ensure_ascii=False, default=_plain))
        separator = ",\n"
        if buffer.tell() >= CHUNK_BYTES:
            yield _take(buffer)
    buffer.write("\n]\n")
    yield _take(buffer)


class SealedWriter:
    """Takes plain bytes and writes ciphertext: a header, then segments; never seeks."""

    def __init__(self, file: IO[bytes], key: bytes, context: str) -> None:
        self._file = file
        self._message = floe.Message.start(key, context.encode())
        self._rest = bytearray()
        self._position = 0
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        file.write(self._message.header)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take these bytes.

        Raises:
            TooMuchDataError: More than one file holds.
        """
        self._digest.update(data)
        self._rest += data
        self.size_bytes += len(data)
        if self.size_bytes > limits.EXPORT_FILE_BYTES_MAX:
            raise TooMuchDataError
        # The last segment must know that it is the last: one is always kept back.
        while len(self._rest) > floe.PRODUCTION.plain_bytes:
            self._put(floe.PRODUCTION.plain_bytes, is_final=False)
        return len(data)

    def flush(self) -> None:
        """What is not a whole segment waits for `close`."""

    def close(self) -> str:
        """Write what is left; returns the SHA-256 of all plain bytes, in hex."""
        self._put(len(self._rest), is_final=True)
        self._message.wipe()
        return self._digest.hexdigest()

    def _put(self, size_bytes: int, *, is_final: bool) -> None:
        plain = bytes(self._rest[:size_bytes])
        del self._rest[:size_bytes]
        self._file.write(self._message.seal_segment(self._position, plain, is_final=is_final))
        self._position += 1


@contextmanager
def spool() -> Iterator[IO[bytes]]:
    """A file for ciphertext, gone afterwards; on the store's own disk where it has one."""
    folder = None
    where = storage()
    if isinstance(where, FileSystemStorage):
        path = Path(where.path("incoming"))
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = str(path)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        yield file


def put(export_id: UUID, file: IO[bytes]) -> str:
    """Store a spooled file under a name that nobody can guess; returns the name."""
    file.flush()
    file.seek(0)
    name = f"{FOLDER}/{export_id}/{secrets.token_hex(16)}"
    return storage().save(name, File(file, name="export"))


def store(export_id: UUID, key: bytes, context: str, chunks: Iterable[bytes]) -> Stored:
    """Seal what comes in pieces and store it.

    Raises:
        OSError: The store does not take it now.
        TooMuchDataError: More than one file holds.
    """
    with spool() as file:
        writer = SealedWriter(file, key, context)
        for chunk in chunks:
            writer.write(chunk)
        sha256 = writer.close()
        return Stored(put(export_id, file), writer.size_bytes, sha256)


def read(name: str, key: bytes, context: str, size_bytes: int) -> Iterator[bytes]:
    """The plain bytes of a stored file, segment by segment.

    Raises:
        ExportGoneError: The store has it no more. Raised at once, before the first piece.
        TamperedError, HeaderError: It is not what was stored.
    """
    try:
        file = storage().open(name, "rb")
    except FileNotFoundError as error:
        raise ExportGoneError from error
    return _read(file, key, context, size_bytes)


def _read(file: File, key: bytes, context: str, size_bytes: int) -> Iterator[bytes]:
    with file:
        message = floe.Message.open(key, context.encode(), file.read(floe.HEADER_BYTES))
        count = floe.PRODUCTION.count_segments(size_bytes)
        left = size_bytes
        for position in range(count):
            out = bytearray(min(left, floe.PRODUCTION.plain_bytes))
            sealed = file.read(len(out) + floe.OVERHEAD_BYTES)
            message.open_segment(position, sealed, memoryview(out), is_final=position == count - 1)
            left -= len(out)
            yield bytes(out)
        message.wipe()


def delete_all(export_id: UUID, *, but: str = "") -> bool:
    """Delete what lies in an archive's folder; false if the store keeps some of it for now.

    By the folder, not by rows: a worker that died has left files that no row names.
    """
    where, folder = storage(), f"{FOLDER}/{export_id}"
    try:
        _, names = where.listdir(folder)
        for name in (f"{folder}/{one}" for one in names):
            if name != but:
                where.delete(name)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if not but and isinstance(where, FileSystemStorage):
        with suppress(OSError):  # A last file of a worker that was given up.
            Path(where.path(folder)).rmdir()
    return True


def _cell(value: Any) -> Any:
    plain = "" if value is None else value if isinstance(value, int | str) else _plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, dict | list):
        plain = json.dumps(plain, ensure_ascii=False, default=_plain)
    # Numbers of ours are numbers, also below zero; only texts come from people.
    if isinstance(plain, str) and plain.lstrip(" ").startswith(_FORMULA_STARTS):
        return f"'{plain}"
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict | list | float | tuple):
        return value
    # A type that no exporter was meant to hand out, bytes above all.
    raise TypeError(f"{type(value).__name__} does not leave in an archive")


def _take(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def _cipher() -> AESGCM:
    key = HKDF(SHA256(), 32, salt=None, info=b"strongroom: keys of data archives")
    return AESGCM(key.derive(settings.SECRET_KEY.encode()))
