"""Write an own version back to a folder: the way back from ciphertext to files.

Each file is written under another name, readable by its owner only, and gets its own name
when all of it was opened. A list of what is finished lies in the folder meanwhile, so that
the same command goes on with the next file after a cut. If anything turns out not to be
what was signed, everything that was written is removed again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strongroom.config import read_json, write_json
from strongroom.push import Reporter
from strongroom.sealed_version import RecoveryError, SealedVersion
from strongroom.sealing.errors import TamperedError
from strongroom.sealing.manifest import SealedFile

# No path of a manifest begins with a dot.
PROGRESS_FILE = ".strongroom-recovery.json"
PARTIAL_SUFFIX = ".partial"


class Recovery:
    """One version, written to one folder.

    Args:
        version: The opened version.
        folder: Where its files go; empty, new, or left by an earlier try of the same.
        reporter: Told about progress.
    """

    def __init__(self, version: SealedVersion, folder: Path, reporter: Reporter) -> None:
        self._version = version
        self._folder = folder
        self._reporter = reporter
        self._progress = folder / PROGRESS_FILE
        self._done: dict[str, dict[str, int]] = {}
        self._made_folders: list[Path] = []

    def run(self) -> list[Path]:
        """Write what is missing; returns all files.

        Raises:
            RecoveryError: `folder_not_empty`, `file_exists`, `file_changed`,
                `folder_unwritable`; nothing was overwritten, and whole files stay.
            ApiError: The platform refused, or was cut off; whole files stay.
            TamperedError: It is not what was signed; nothing stays.
        """
        try:
            self._prepare()
        except OSError as error:
            detail = f"{self._folder} cannot be used: {error.strerror}."
            raise RecoveryError("folder_unwritable", detail) from None
        files = self._version.manifest.files
        done_bytes = sum(one.plain_size_bytes for one in files if one.path in self._done)
        self._reporter.begin(self._version.manifest.plain_size_bytes, done_bytes)
        try:
            for file_index, file in enumerate(files):
                if file.path not in self._done:
                    self._write(file_index, file)
        except TamperedError:
            self._remove_everything()
            raise
        except OSError as error:
            detail = f"{self._folder} takes no more: {error.strerror}. Whole files stay."
            raise RecoveryError("folder_unwritable", detail) from None
        self._progress.unlink()
        return [self._folder / one.path for one in files]

    def _prepare(self) -> None:
        """Find what an earlier try has finished, and refuse a folder of somebody else's."""
        self._make_folder(self._folder)
        artifact_id = self._version.manifest.artifact_id
        found = read_json(self._progress)
        if found is None:
            if any(self._folder.iterdir()):
                detail = f"{self._folder} is not empty. Nothing in it was touched."
                raise RecoveryError("folder_not_empty", detail)
        elif found.get("artifact_id") != artifact_id:
            detail = f"{self._folder} holds the beginning of another version."
            raise RecoveryError("folder_not_empty", detail)
        else:
            self._done = dict(found.get("done") or {})
            self._reporter.note(f"Going on: {len(self._done)} files are there already.")
        for path, seen in self._done.items():
            if _look_at(self._folder / path) != seen:
                detail = f"{self._folder / path} is not as it was recovered. Begin anew elsewhere."
                raise RecoveryError("file_changed", detail)
        self._note_progress()

    def _write(self, file_index: int, file: SealedFile) -> None:
        target = self._folder / file.path
        self._make_folder(target.parent)
        partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
        partial.unlink(missing_ok=True)  # What a killed try left behind.
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                for part in range(len(file.parts)):
                    for plain in self._version.read_part(file_index, part):
                        out.write(plain)
                        self._reporter.advance(len(plain))
                out.flush()
                os.fsync(out.fileno())
            try:
                # Unlike a rename, this never replaces what has come there meanwhile.
                target.hardlink_to(partial)
            except FileExistsError:
                detail = f"{target} is there already and was not overwritten."
                raise RecoveryError("file_exists", detail) from None
        finally:
            partial.unlink(missing_ok=True)
        self._done[file.path] = _look_at(target) or {}
        self._note_progress()

    def _note_progress(self) -> None:
        value: Mapping[str, Any] = {
            "artifact_id": self._version.manifest.artifact_id,
            "done": self._done,
        }
        write_json(self._progress, value)

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(mode=0o700)
            self._made_folders.append(one)

    def _remove_everything(self) -> None:
        for path in self._done:
            (self._folder / path).unlink(missing_ok=True)
        self._progress.unlink(missing_ok=True)
        for folder in reversed(self._made_folders):
            with contextlib.suppress(OSError):  # Somebody else's file has come into it.
                folder.rmdir()


def _look_at(path: Path) -> dict[str, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
