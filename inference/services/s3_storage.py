"""Keep ciphertext in an S3-compatible store that fails as a disk does: with OSError.

Botocore, boto3 and s3transfer raise classes of their own, which share no base. Translated
here, at the one door to them, `object_store` needs one rule for every store behind it.
Named by the settings where a bucket is configured, and imported only there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError
from storages.backends.s3 import S3File, S3Storage

FAILURES = (BotoCoreError, ClientError, Boto3Error, RetriesExceededError)
GONE_CODES = frozenset({"NoSuchKey", "404"})

# Botocore's own 60 s each and five attempts would hold a web worker for minutes.
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS_MAX = 3
# What of a part that is read lies in memory, not in a temporary file; without it, all of it.
READ_MEMORY_BYTES_MAX = 1024 * 1024


class S3ArtifactStorage(S3Storage):
    """`S3Storage` with one kind of failure, known before anything of a file was handed out."""

    client_config: Any  # Botocore has no types.

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_memory_size": READ_MEMORY_BYTES_MAX} | options)
        ours = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
            # Not every compatible store knows the newer checksums, and a part's SHA-256 is
            # compared with the creator's manifest in any case.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self.client_config = self.client_config.merge(ours)

    def _open(self, name: str, mode: str = "rb") -> S3File:
        with _failing_as_a_disk_does():
            file = super()._open(name, mode)
            # Fetched now, not at the first read: by then an answer would have begun that
            # could only be cut off.
            return file.open()

    def _save(self, name: str, content: Any) -> str:
        with _failing_as_a_disk_does():
            return super()._save(name, content)

    def delete(self, name: str) -> None:
        """Delete an object; one that is gone already is fine."""
        with _failing_as_a_disk_does():
            super().delete(name)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """The folders and the objects directly below a path; none if there is no such path."""
        with _failing_as_a_disk_does():
            return super().listdir(path)


@contextlib.contextmanager
def _failing_as_a_disk_does() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise (FileNotFoundError if _says_gone(error) else OSError)(str(error)) from error


def _says_gone(error: Exception) -> bool:
    """Deleted between the look at an object and its reading."""
    return isinstance(error, ClientError) and error.response["Error"].get("Code") in GONE_CODES
