"""Keep the ciphertext of versions on disk, each part checked while it comes in.

A part is written beside its place, hashed on the way, flushed, and only then moved there, so
that a file with its final name is whole and was what the creator signed. Fetching goes on
with the missing parts after a cut. What was used least recently goes first when the room
is needed for others.

Nothing here can be read without a key that this process never sees.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from inference.node import metrics
from inference.node.control_plane import ControlPlane, Stop, retry
from inference.node.errors import CancelledError, RefusedError, ReplicaError, UnreachableError
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.manifest import Manifest, Part

PARALLEL_FETCHES = 4
# A broken line can spoil a part; the same part spoiled again is spoiled at its source.
PART_ATTEMPTS = 2
# For one part or one manifest: a restart of the web is bridged, an outage is reported.
RETRY_TIMEOUT_S = 30.0
# Left to logs and to others on the same disk.
DISK_RESERVE_BYTES = 256 * 1024 * 1024
_DOCUMENT = "artifact.json"

_LOOK_S = 0.05

T = TypeVar("T")
OnProgress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class CachedArtifact:
    """A version whose parts are all here, in the manifest's order."""

    version_id: UUID
    manifest_text: str
    manifest: Manifest
    parts: tuple[Path, ...]

    def open_parts(self) -> list[int]:
        """A descriptor for each part, for reading only; the caller closes them.

        Raises:
            ReplicaError: `fetch_failed`: a part is gone from the disk.
        """
        handles: list[int] = []
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            for path in self.parts:
                handles.append(os.open(path, flags))  # noqa: PERF401 - closed on failure
        except OSError as error:
            for handle in handles:
                os.close(handle)
            detail = "A part is missing from the node's cache."
            raise ReplicaError("fetch_failed", detail) from error
        return handles


class ArtifactCache:
    """The node's folder of ciphertext.

    Args:
        folder: Holds one folder for each version.
        limit_bytes: Above this, versions that are not in use are removed.
        control_plane: Where parts come from.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, control_plane: ControlPlane) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._control_plane = control_plane
        self._lock = threading.Lock()
        self._version_locks: defaultdict[UUID, threading.Lock] = defaultdict(threading.Lock)
        self._in_use: Counter[UUID] = Counter()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def hold(
        self,
        version_id: UUID,
        *,
        on_progress: OnProgress,
        cancelled: threading.Event,
        check: Callable[[Manifest], None] = lambda _: None,
    ) -> Iterator[CachedArtifact]:
        """Fetch what is missing of a version, and keep it from removal inside the block.

        Args:
            version_id: Whose artifact.
            on_progress: Called with the share that is here, from 0 to 1.
            cancelled: Ends the fetch early.
            check: Given the manifest before any part is fetched; raises to end it there.

        Raises:
            ReplicaError: `fetch_failed`, `disk_full`, `artifact_corrupt`, the code of a
                manifest that is not valid, or what `check` raised.
            CancelledError: As asked.
        """
        with self._lock:
            self._in_use[version_id] += 1
        try:
            with self._version_lock(version_id):
                artifact = self._fetch(version_id, on_progress, cancelled, check)
            yield artifact
        finally:
            with self._lock:
                self._in_use[version_id] -= 1

    def remove(self, version_id: UUID) -> None:
        """Forget a version; files that are open stay readable to who has them."""
        shutil.rmtree(self._folder / str(version_id), ignore_errors=True)

    def size_bytes(self) -> int:
        """Room that all versions take now."""
        return sum(size_bytes for _, _, size_bytes in self._list_versions())

    def _version_lock(self, version_id: UUID) -> threading.Lock:
        with self._lock:
            return self._version_locks[version_id]

    def _fetch(
        self,
        version_id: UUID,
        on_progress: OnProgress,
        cancelled: threading.Event,
        check: Callable[[Manifest], None],
    ) -> CachedArtifact:
        folder = self._folder / str(version_id)
        text, manifest = self._get_manifest(folder, version_id, cancelled)
        check(manifest)
        # Used now, so the last to be removed. The kernel's own clock for files is coarse.
        now_ns = time.time_ns()
        os.utime(folder, ns=(now_ns, now_ns))
        jobs = [
            _Job(version_id, file_index, number, part, _part_path(folder, file_index, number))
            for file_index, file in enumerate(manifest.files)
            for number, part in enumerate(file.parts)
        ]
        missing = [job for job in jobs if not job.is_here()]
        metrics.CACHE.add("miss" if missing else "hit")
        self._make_room(sum(job.part.size_bytes for job in missing), version_id)
        total_bytes = sum(job.part.size_bytes for job in jobs)
        here_bytes = total_bytes - sum(job.part.size_bytes for job in missing)
        progress = _Progress(here_bytes, total_bytes, on_progress)
        self._fetch_parts(missing, progress, cancelled)
        return CachedArtifact(version_id, text, manifest, tuple(job.path for job in jobs))

    def _get_manifest(
        self, folder: Path, version_id: UUID, cancelled: threading.Event
    ) -> tuple[str, Manifest]:
        """From the disk if it is there and right: a version never changes."""
        try:
            document = json.loads((folder / _DOCUMENT).read_text())
            return document["manifest"], _check_manifest(document, version_id)
        except (OSError, ValueError, KeyError, TypeError, ReplicaError):
            pass
        document = self._ask(lambda: self._control_plane.get_artifact(version_id), cancelled)
        manifest = _check_manifest(document, version_id)
        folder.mkdir(exist_ok=True, mode=0o700)
        kept = {name: document[name] for name in ("manifest", "signature", "signing_public_key")}
        with _disk_errors():
            _write_whole(folder / _DOCUMENT, json.dumps(kept).encode())
        return document["manifest"], manifest

    def _fetch_parts(
        self, jobs: list[_Job], progress: _Progress, cancelled: threading.Event
    ) -> None:
        if not jobs:
            return
        # One that fails ends the others: their parts are kept for the next attempt.
        stop = _Either(cancelled)
        with ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._fetch_part, job, progress, stop) for job in jobs]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            stop.set()
            for future in futures:
                future.cancel()
        errors = [one.exception() for one in futures if one.done() and not one.cancelled()]
        # The cause, not those that were ended because of it.
        real = [one for one in errors if one and not isinstance(one, CancelledError)]
        if real:
            raise real[0]
        if any(errors) or len(done) < len(futures):
            raise CancelledError

    def _fetch_part(self, job: _Job, progress: _Progress, stop: _Either) -> None:
        for attempt in range(PART_ATTEMPTS):
            count = progress.count_part()
            try:
                digest = self._ask(lambda: self._receive(job, count, stop), stop)  # noqa: B023
            except BaseException:
                job.draft.unlink(missing_ok=True)
                raise
            if digest == job.part.sha256:
                job.draft.replace(job.path)
                metrics.FETCHED.add(by=job.part.size_bytes)
                return
            job.draft.unlink(missing_ok=True)
            count.restart()
            if attempt + 1 < PART_ATTEMPTS:
                time.sleep(0.2)
        detail = f"Part {job.number} of file {job.file_index} is not what was signed."
        raise ReplicaError("artifact_corrupt", detail)

    def _receive(self, job: _Job, count: _PartCount, stop: _Either) -> str:
        """Write one part to its draft and return the SHA-256 of what came."""
        count.restart()
        digest, left_bytes = hashlib.sha256(), job.part.size_bytes
        with (
            _disk_errors(),
            job.draft.open("wb") as file,
            self._control_plane.stream_part(job.version_id, job.file_index, job.number) as chunks,
        ):
            for chunk in chunks:
                if stop.is_set():
                    raise CancelledError
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    break
                digest.update(chunk)
                file.write(chunk)
                count.add(len(chunk))
            file.flush()
            # Else a power cut could leave a file with its final name and other content.
            os.fsync(file.fileno())
        if left_bytes > 0:
            raise UnreachableError("the part ended early")
        return digest.hexdigest() if left_bytes == 0 else "too long"

    def _ask(self, call: Callable[[], T], cancelled: Stop) -> T:
        try:
            return retry(call, timeout_s=RETRY_TIMEOUT_S, cancelled=cancelled)
        except UnreachableError as error:
            detail = "The platform did not hand the artifact out in time."
            raise ReplicaError("fetch_failed", detail) from error
        except RefusedError as error:
            detail = f"The platform refused to hand the artifact out: {error.code}."
            raise ReplicaError("fetch_failed", detail) from error

    def _make_room(self, needed_bytes: int, version_id: UUID) -> None:
        """Remove versions, the longest unused first, until `needed_bytes` more fit."""
        if not needed_bytes:
            return
        with self._lock:
            versions = sorted(self._list_versions())
            used_bytes = sum(size_bytes for _, _, size_bytes in versions)
            for _, name, size_bytes in versions:
                fits = used_bytes + needed_bytes <= self._limit_bytes
                if fits and self._free_bytes() >= needed_bytes:
                    return
                other = UUID(name)
                if other != version_id and not self._in_use[other]:
                    self.remove(other)
                    used_bytes -= size_bytes
            fits = used_bytes + needed_bytes <= self._limit_bytes
        if not fits or self._free_bytes() < needed_bytes:
            detail = f"The node's cache has no room for {needed_bytes} more bytes."
            raise ReplicaError("disk_full", detail)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free - DISK_RESERVE_BYTES

    def _list_versions(self) -> list[tuple[float, str, int]]:
        """Last use, name and size of every version here."""
        found = []
        for folder in self._folder.iterdir():
            try:
                UUID(folder.name)
                size_bytes = sum(one.stat().st_size for one in folder.iterdir())
                found.append((folder.stat().st_mtime, folder.name, size_bytes))
            except (ValueError, OSError):
                continue
        return found


@dataclass(frozen=True, slots=True)
class _Job:
    """One part that should be here."""

    version_id: UUID
    file_index: int
    number: int
    part: Part
    path: Path

    @property
    def draft(self) -> Path:
        return self.path.with_suffix(".new")

    def is_here(self) -> bool:
        try:
            return self.path.stat().st_size == self.part.size_bytes
        except OSError:
            return False


class _Either:
    """Set when the caller's event is, or when one of ours failed."""

    def __init__(self, outer: threading.Event) -> None:
        self._outer = outer
        self._own = threading.Event()

    def set(self) -> None:
        self._own.set()

    def is_set(self) -> bool:
        return self._own.is_set() or self._outer.is_set()

    def wait(self, timeout: float) -> bool:
        ends_at = time.monotonic() + timeout
        while not self.is_set() and time.monotonic() < ends_at:
            self._outer.wait(_LOOK_S)
        return self.is_set()


class _Progress:
    """Octets that are here, over all parts."""

    def __init__(self, here_bytes: int, total_bytes: int, report: OnProgress) -> None:
        self._lock = threading.Lock()
        self._here_bytes = here_bytes
        self._total_bytes = total_bytes
        self._report = report

    def count_part(self) -> _PartCount:
        return _PartCount(self)

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self._here_bytes += size_bytes
            share = self._here_bytes / max(1, self._total_bytes)
        self._report(min(1.0, share))


class _PartCount:
    """What one attempt at one part has added, to be taken back if it is begun anew."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress
        self._size_bytes = 0

    def add(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        self._progress.add(size_bytes)

    def restart(self) -> None:
        if self._size_bytes:
            self._progress.add(-self._size_bytes)
            self._size_bytes = 0


def _part_path(folder: Path, file_index: int, number: int) -> Path:
    return folder / f"{file_index}-{number}.part"


def _check_manifest(document: dict[str, str], version_id: UUID) -> Manifest:
    """The manifest, if it is the one that the creator signed for this version."""
    try:
        text = document["manifest"]
        public_key = decode_base64(document["signing_public_key"])
        signed = decode_base64(document["signature"])
        signature.verify(public_key, signature.MANIFEST_TYPE, text.encode(), signed)
        manifest = Manifest.parse(text)
    except StrongroomError as error:
        raise ReplicaError(error.code, error.detail) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        detail = "The platform's description of the artifact is malformed."
        raise ReplicaError("fetch_failed", detail) from error
    if manifest.artifact_id != str(version_id):
        raise ReplicaError("manifest_mismatch", "The manifest belongs to another version.")
    return manifest


def _write_whole(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Give a disk without room its own code; another fault of it is a failed fetch."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = "disk_full" if is_full else "fetch_failed"
        raise ReplicaError(code, f"The node's disk refused: {error.strerror}.") from error
