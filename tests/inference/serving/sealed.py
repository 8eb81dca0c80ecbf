"""Seal files with the SDK, as a creator does, and keep the parts in a folder."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marketplace.core.ids import new_id
from strongroom.sealing import floe
from strongroom.sealing.manifest import Manifest, Part, SealedFile, TestVector, file_aad


@dataclass(frozen=True)
class SealedModel:
    """What lies on a node's disk, and the key that the broker would release."""

    manifest: Manifest
    parts: tuple[Path, ...]
    dek: bytes

    def with_manifest(self, **members: Any) -> SealedModel:
        return replace(self, manifest=replace(self.manifest, **members, _interface=None))


def seal(
    folder: Path,
    files: dict[str, tuple[str, bytes]],
    *,
    runtime: str,
    interface: dict[str, Any],
    task: str = "classification",
    vectors: tuple[TestVector, ...] = (),
) -> SealedModel:
    """`files` maps a path to its kind and its plain content."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact_id, dek = str(new_id()), os.urandom(32)
    sealed, places = [], []
    for index, (path, (kind, plain)) in enumerate(files.items()):
        aad = file_aad(artifact_id=artifact_id, path=path, plain_size_bytes=len(plain))
        message = floe.Message.start(dek, aad)
        size_bytes = floe.PRODUCTION.cipher_size(len(plain))
        parts = []
        for number in range(len(floe.PRODUCTION.part_sizes(size_bytes))):
            place = folder / f"{artifact_id}-{index}-{number}"
            digest = hashlib.sha256()
            with place.open("wb") as file:
                for segment in floe.encrypt_part(message, io.BytesIO(plain), len(plain), number):
                    digest.update(segment)
                    file.write(segment)
            parts.append(Part(place.stat().st_size, digest.hexdigest()))
            places.append(place)
        sealed.append(SealedFile(path, kind, len(plain), size_bytes, message.header, tuple(parts)))
    manifest = Manifest(
        artifact_id=artifact_id,
        model="acme/tiny",
        runtime=runtime,
        task=task,
        licence="Apache-2.0",
        interface=interface,
        files=tuple(sealed),
        created_at="2026-11-21T03:42:00Z",
        test_vectors=vectors,
    )
    return SealedModel(manifest, tuple(places), dek)
