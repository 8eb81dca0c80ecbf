"""What tests of files share: a store of their own, and sources of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def use_store(settings: Any, folder: Path) -> Path:
    """Keep objects in a folder of this test."""
    artifacts = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder), "file_permissions_mode": 0o600},
    }
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}
    return folder


def list_objects(folder: Path) -> list[Path]:
    """All files in a store, spools included."""
    return [path for path in folder.rglob("*") if path.is_file()]


class Zeros:
    """A source of so many zeros that keeps none of them."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes

    def read(self, size: int, /) -> bytes:
        """The next ones."""
        size = min(size, self.left_bytes)
        self.left_bytes -= size
        return bytes(size)
