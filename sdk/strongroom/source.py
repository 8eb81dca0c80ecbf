"""Where the plain bytes of a new version come from: files of a folder.

The other source is an earlier version, opened while it is downloaded: see
`strongroom.sealed_version`. A push does not know which of them it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol

from strongroom.inspect import ModelFolder
from strongroom.sealing import floe

PLAIN_PART_BYTES = floe.SEGMENTS_PER_PART * floe.PRODUCTION.plain_bytes


class PlainFile(Protocol):
    """One file that will be sealed; `path` is its path in the artifact."""

    @property
    def path(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


class Sources(Protocol):
    """The plain files of a version, as `strongroom.push` reads them, from several threads."""

    @property
    def name(self) -> str:
        """Tells them from all others on this machine; an interrupted push is found by it."""

    @property
    def files(self) -> Sequence[PlainFile]:
        """In the order of the manifest."""

    def describe(self) -> tuple[dict[str, Any], ...]:
        """What can be seen of the files without reading them; changes if one of them does."""

    def open(self, file_index: int, part: int) -> AbstractContextManager[floe.Source]:
        """A file, to be read from where this part of it begins to where it ends."""

    def is_same(self, file_index: int, part: int, plain_sha256: str) -> bool:
        """True if a part that was sealed before would be read from the same bytes again."""


class FolderSources:
    """The files of a folder on this machine."""

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        self.name = str(folder.root)
        self.files = folder.files

    def describe(self) -> tuple[dict[str, Any], ...]:
        """Paths, kinds, sizes and times of modification."""
        described = []
        for one in self.files:
            status = one.location.stat()
            described.append(
                {
                    "path": one.path,
                    "kind": one.kind,
                    "size_bytes": status.st_size,
                    "mtime_ns": status.st_mtime_ns,
                }
            )
        return tuple(described)

    def open(self, file_index: int, part: int) -> BinaryIO:
        """The file itself."""
        return self.files[file_index].location.open("rb")

    def is_same(self, file_index: int, part: int, plain_sha256: str) -> bool:
        """Modification times can lie, so the plain bytes are read again."""
        return self._hash_part(file_index, part) == plain_sha256

    def _hash_part(self, file_index: int, part: int) -> str:
        one = self.files[file_index]
        left_bytes = min(PLAIN_PART_BYTES, one.size_bytes - part * PLAIN_PART_BYTES)
        digest = hashlib.sha256()
        with one.location.open("rb") as file:
            file.seek(part * PLAIN_PART_BYTES)
            while left_bytes > 0:
                chunk = file.read(min(floe.SEGMENT_BYTES, left_bytes))
                if not chunk:
                    break
                digest.update(chunk)
                left_bytes -= len(chunk)
        return digest.hexdigest()
