"""The digest of the code that will see plaintext.

The key broker releases a key only to a loader whose digest it knows. It covers what runs
in Triton's stub and is ours; the interpreter, the libraries and Triton are the image's.

`python -m inference.serving.digest` prints it, for the broker's list.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("inference/serving", "inference/artifact", "sdk/strongroom/sealing")
_FILES = (
    "inference/__init__.py",
    "inference/triton/__init__.py",
    "inference/triton/errors.py",
    "inference/triton/media.py",
    "inference/triton/tensors.py",
    "marketplace/__init__.py",
    "marketplace/core/__init__.py",
    "marketplace/core/errors.py",
    "sdk/strongroom/__init__.py",
    "sdk/strongroom/errors.py",
    "sdk/strongroom/interface.py",
)


def compute_loader_digest(root: Path = ROOT) -> str:
    """SHA-256 in hex over path and content of every file, in the order of the paths.

    Each is preceded by its length, so that no two sets of files look the same.

    Args:
        root: The folder that holds `inference` and `sdk`.
    """
    digest = hashlib.sha256()
    for path in sorted(list_files(root)):
        for part in (path.encode(), (root / path).read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


def list_files(root: Path) -> Iterator[str]:
    """Paths of the covered files, relative to the root, in no particular order."""
    for folder in _FOLDERS:
        for path in (root / folder).rglob("*.py"):
            yield path.relative_to(root).as_posix()
    yield from _FILES


if __name__ == "__main__":
    sys.stdout.write(compute_loader_digest() + "\n")
