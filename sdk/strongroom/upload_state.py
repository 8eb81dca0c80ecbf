"""What is remembered of a push, so that a cut costs minutes and not the whole upload.

The data key lies here only sealed to the creator's own recovery key. For each part the
hash of the sealed bytes is written down before they are sent: after a cut, a part counts
as sent only if the platform holds exactly those bytes. The hash of the plain bytes beside
it shows whether the source is still the file that they were made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongroom.config import ConfigError, read_json, write_json
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError, WrapError
from strongroom.sealing.wrap import WrappedKey

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SentPart:
    """Hashes of one part, in hex: as it was sealed, and of the plain bytes in it."""

    sha256: str
    plain_sha256: str


@dataclass(frozen=True, slots=True)
class SavedUpload:
    """An upload that was begun. `sources` describes the files it was begun with."""

    upload_id: str
    version_id: str
    dek: WrappedKey
    headers: tuple[bytes, ...]
    sources: tuple[Mapping[str, Any], ...]


class UploadStore:
    """The two files that remember one push: what was begun, and the parts sealed so far."""

    def __init__(self, folder: Path, *, web_url: str, model: str, root: Path | str) -> None:
        key = json.dumps([web_url, model, str(root)])
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._begun = folder / f"{name}.json"
        self._parts = folder / f"{name}.parts"
        self._lock = threading.Lock()

    def load(self) -> SavedUpload | None:
        """What was begun, or None. Damaged files count as none: the push starts over."""
        try:
            value = read_json(self._begun) or {}
            if value.get("format") != FORMAT:
                return None
            return SavedUpload(
                upload_id=str(value["upload_id"]),
                version_id=str(value["version_id"]),
                dek=WrappedKey.parse(value["dek"]),
                headers=tuple(decode_base64(one) for one in value["headers"]),
                sources=tuple(value["sources"]),
            )
        except (KeyError, TypeError, ConfigError, CanonicalError, WrapError):
            return None

    def begin(self, saved: SavedUpload) -> None:
        """Remember an upload before its first part is sent."""
        self._parts.unlink(missing_ok=True)
        write_json(
            self._begun,
            {
                "format": FORMAT,
                "upload_id": saved.upload_id,
                "version_id": saved.version_id,
                "dek": saved.dek.to_json(),
                "headers": [encode_base64(one) for one in saved.headers],
                "sources": [dict(one) for one in saved.sources],
            },
        )

    def load_parts(self) -> dict[tuple[int, int], SentPart]:
        """Parts that were sealed, by file and part; the last line of each counts."""
        parts: dict[tuple[int, int], SentPart] = {}
        try:
            lines = self._parts.read_text().splitlines()
        except FileNotFoundError:
            return parts
        for line in lines:
            try:
                file_index, part, sha256, plain_sha256 = json.loads(line)
            except (ValueError, TypeError):
                continue  # The line that a cut interrupted.
            parts[file_index, part] = SentPart(sha256, plain_sha256)
        return parts

    def add_part(self, file_index: int, part: int, sealed: SentPart) -> None:
        """Remember a part before it is sent."""
        line = json.dumps([file_index, part, sealed.sha256, sealed.plain_sha256]) + "\n"
        with self._lock:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self._parts, flags, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Remove both files."""
        self._begun.unlink(missing_ok=True)
        self._parts.unlink(missing_ok=True)
