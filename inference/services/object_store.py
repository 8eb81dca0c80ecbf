"""Put ciphertext into the object store and take it out again, without holding it in memory.

A part is first written to a file beside the store and hashed on the way; only a part that
is what it should be is handed to the store, which for a local folder is a rename.

Whatever store is configured fails with OSError; an S3-compatible one does so by
`inference.services.s3_storage`. Here that becomes one refusal with a stable code.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol
from uuid import UUID

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from inference.errors import (
    ObjectStoreUnavailableError,
    PartChecksumMismatchError,
    PartSizeMismatchError,
)

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
RETRY_AFTER_S = 10
INCOMING_FOLDER = "incoming"
ARTIFACTS_FOLDER = "artifacts"


class Readable(Protocol):
    """A request's body, or any other source of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def artifact_storage() -> Storage:
    """The store of ciphertext."""
    return storages["artifacts"]


class SpooledPart(File):
    """A received part in a file that the store may simply move to its place."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        super().__init__(file, name="part")
        self.size = size_bytes

    def temporary_file_path(self) -> str:
        """Django's local storage looks for this, and renames instead of copying."""
        assert self.file is not None
        return str(self.file.name)


@contextlib.contextmanager
def receive(stream: Readable, *, size_bytes: int, sha256: str) -> Iterator[SpooledPart]:
    """Take a body from the network and check it; the file is gone afterwards.

    Args:
        stream: The body.
        size_bytes: What it must have; not a byte more is kept.
        sha256: What it must hash to, in hex.

    Raises:
        PartSizeMismatchError: The body ended early or goes on.
        PartChecksumMismatchError: Its bytes are others than promised.
        ObjectStoreUnavailableError: The disk takes no more.
    """
    path = None
    try:
        with tempfile.NamedTemporaryFile(dir=_incoming_folder(), delete=False) as file:
            path = Path(file.name)
            digest = _copy(stream, file, size_bytes)
            if digest != sha256:
                raise PartChecksumMismatchError
            file.flush()
            yield SpooledPart(file, size_bytes)
    except OSError as error:
        raise _unavailable("a part could not be written", error) from error
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def _copy(stream: Readable, file: IO[bytes], size_bytes: int) -> str:
    digest = hashlib.sha256()
    remaining = size_bytes
    while remaining:
        chunk = stream.read(min(CHUNK_BYTES, remaining))
        if not chunk:
            raise PartSizeMismatchError(f"The body ended {remaining} bytes early.")
        digest.update(chunk)
        file.write(chunk)
        remaining -= len(chunk)
    if stream.read(1):
        raise PartSizeMismatchError(f"The body goes on after {size_bytes} bytes.")
    return digest.hexdigest()


def _incoming_folder() -> str | None:
    """A folder on the store's own disk, so that moving is renaming; else the system's."""
    storage = artifact_storage()
    if not isinstance(storage, FileSystemStorage):
        return None
    folder = Path(storage.path(INCOMING_FOLDER))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return str(folder)


def store_part(version_id: UUID, file_index: int, part: int, content: SpooledPart) -> str:
    """Keep a part under a name of its own; returns the name.

    Every attempt gets another name, so that two that run at once never write one object.
    """
    name = f"{_folder_of(version_id)}/{file_index:02}-{part:06}-{secrets.token_hex(4)}"
    try:
        return artifact_storage().save(name, content)
    except OSError as error:
        raise _unavailable("a part could not be stored", error) from error


def open_part(storage_name: str) -> File:
    """A stored part, opened for reading.

    Raises:
        FileNotFoundError: It is gone.
        ObjectStoreUnavailableError: The store does not give it right now.
    """
    with _refusing_when_unavailable("a part could not be opened"):
        return artifact_storage().open(storage_name, "rb")


def hash_part(storage_name: str) -> tuple[str, int]:
    """SHA-256 in hex and size of a stored part; raises what `open_part` raises."""
    digest, size_bytes = hashlib.sha256(), 0
    with _refusing_when_unavailable("a part could not be read"), open_part(storage_name) as file:
        for chunk in file.chunks(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def list_stored() -> Iterator[tuple[str, int]]:
    """Name and size in bytes of every object of artifacts.

    Raises:
        ObjectStoreUnavailableError: The store does not give the list.
    """
    storage, waiting = artifact_storage(), [ARTIFACTS_FOLDER]
    with _refusing_when_unavailable("the store could not be listed"):
        while waiting:
            folder = waiting.pop()
            try:
                folders, names = storage.listdir(folder)
            except FileNotFoundError:
                continue
            waiting += [f"{folder}/{one}" for one in folders if one]
            yield from ((name, storage.size(name)) for name in (f"{folder}/{one}" for one in names))


def delete_part(storage_name: str) -> bool:
    """Delete a part; one that is gone already is fine, one that stays is logged and False."""
    try:
        artifact_storage().delete(storage_name)
    except OSError as error:
        logger.warning("part %s could not be deleted: %s", storage_name, error)
        return False
    return True


def delete_other_parts(version_id: UUID, keep: set[str]) -> bool:
    """Delete what lies in a version's folder and is not in `keep`; false if something stays.

    Finds by the folder, not by rows: a process that died between storing and recording a
    part has left an object that no row names.
    """
    folder = _folder_of(version_id)
    storage = artifact_storage()
    try:
        _, names = storage.listdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        logger.warning("the folder of %s could not be listed: %s", version_id, error)
        return False
    doomed = [name for name in (f"{folder}/{one}" for one in names) if name not in keep]
    # The first that stays ends it: in an outage each of them would wait for its time-out.
    are_gone = all(delete_part(name) for name in doomed)
    if not keep and isinstance(storage, FileSystemStorage):
        with contextlib.suppress(OSError):  # Not empty: someone stores a last part just now.
            Path(storage.path(folder)).rmdir()
    return are_gone


def delete_stale_spools(older_than_s: float, now_s: float) -> int:
    """Delete received parts that a killed process left behind; returns how many."""
    folder = _incoming_folder()
    if folder is None:
        return 0
    count = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if now_s - entry.stat().st_mtime > older_than_s:
                Path(entry.path).unlink()
                count += 1
    return count


@contextlib.contextmanager
def _refusing_when_unavailable(what: str) -> Iterator[None]:
    """Raise ObjectStoreUnavailableError for all but a part that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unavailable(what, error) from error


def _unavailable(what: str, error: OSError) -> ObjectStoreUnavailableError:
    logger.warning("%s: %s", what, error)
    return ObjectStoreUnavailableError(retry_after_s=RETRY_AFTER_S)


def _folder_of(version_id: UUID) -> str:
    return f"{ARTIFACTS_FOLDER}/{version_id}"
