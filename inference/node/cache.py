"""Keep the ciphertext of versions on disk, each part checked while it comes in.

Parts lie in a store that all nodes of the machine share (`inference.node.store`), under their
SHA-256. A part is fetched by one of them while the others wait; it is hashed on the way and
gets its name only if it is what the creator signed. A fetch that was cut goes on where it was.
What was used least recently goes first when the room is needed for others.

Manifests are not shared. They say how a version has to be confined and what may leave it, so
a node believes none but those that the platform gave to itself.

Nothing here can be read without a key that this process never sees.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from inference.node import metrics
from inference.node.control_plane import ControlPlane, retry
from inference.node.errors import CancelledError, RefusedError, ReplicaError, UnreachableError
from inference.node.origin import Mirror, MirrorError, Origin, Wanted
from inference.node.store import Claim, Draft, PartState, PartStore, Stop, disk_errors
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.manifest import Manifest

PARALLEL_FETCHES = 4
# A broken line can spoil a part; the same part spoiled again is spoiled at its source.
PART_ATTEMPTS = 2
# For one part or one manifest: a restart of the web is bridged, an outage is reported.
RETRY_TIMEOUT_S = 30.0
# What is fetched ahead takes the room of nothing that was used within this time.
SPARED_S = 24 * 3600.0
_DOCUMENT_MEMBERS = ("manifest", "signature", "signing_public_key")
# A manifest that no load asked for in this time is forgotten; it is asked for again.
_MANIFEST_KEPT_S = 30 * 24 * 3600.0

_OBJECT = re.compile(r"[A-Za-z0-9._/-]{1,255}")
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


@dataclass(slots=True)
class _Use:
    """A version that this process has claimed, and how many blocks use it now."""

    claim: Claim
    count: int = 1


class ArtifactCache:
    """The versions of one node, in a store that it may share.

    Args:
        folder: The store; see `inference.node.store`.
        limit_bytes: What may lie in it.
        control_plane: Where manifests come from, and parts that no mirror has.
        manifest_dir: This node's own.
        mirror: Asked for parts first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        control_plane: ControlPlane,
        manifest_dir: Path,
        mirror: Mirror | None = None,
    ) -> None:
        self.store = PartStore(folder, limit_bytes=limit_bytes)
        self._manifest_dir = manifest_dir
        self._control_plane = control_plane
        self._origin = Origin(control_plane, mirror)
        self._lock = threading.Lock()
        self._uses: dict[UUID, _Use] = {}
        self._kept: frozenset[UUID] = frozenset()
        manifest_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _forget_old_manifests(manifest_dir)
        _remove_earlier_form(folder)

    @contextmanager
    def hold(
        self,
        version_id: UUID,
        *,
        on_progress: OnProgress,
        cancelled: Stop,
        check: Callable[[Manifest], None] = lambda _: None,
        is_ahead: bool = False,
    ) -> Iterator[CachedArtifact]:
        """Fetch what is missing of a version, and keep it from removal inside the block.

        Args:
            version_id: Whose artifact.
            on_progress: Called with the share that is here, from 0 to 1.
            cancelled: Ends the fetch early.
            check: Given the manifest before any part is fetched; raises to end it there.
            is_ahead: Nobody waits for it: one part at a time, and nothing that was used
                lately is removed for it.

        Raises:
            ReplicaError: `fetch_failed`, `disk_full`, `artifact_corrupt`, the code of a
                manifest that is not valid, or what `check` raised.
            CancelledError: As asked.
        """
        document, manifest = self._get_manifest(version_id, cancelled)
        check(manifest)
        wanted = _list_parts(version_id, manifest, document.get("objects", {}))
        if not is_ahead:
            is_whole = all(self.store.path_of(one.part.sha256).exists() for one in wanted)
            metrics.CACHE.add("hit" if is_whole else "miss")
        self._claim(version_id, wanted, is_ahead)
        try:
            progress = _Progress(sum(one.part.size_bytes for one in wanted), on_progress)
            self._fetch_parts(wanted, progress, cancelled, 1 if is_ahead else PARALLEL_FETCHES)
            paths = tuple(self.store.path_of(one.part.sha256) for one in wanted)
            yield CachedArtifact(version_id, document["manifest"], manifest, paths)
        finally:
            self._unclaim(version_id)

    def keep(self, version_ids: frozenset[UUID]) -> None:
        """From now on these stay claimed once they were held, and no others: loaded models."""
        with self._lock:
            self._kept = version_ids
            idle = [
                one for one, use in self._uses.items() if not use.count and one not in version_ids
            ]
            claims = [self._uses.pop(one).claim for one in idle]
        for claim in claims:
            claim.close()

    def distrust(self, version_id: UUID) -> None:
        """Read all of a version again before its next use: its loader found it spoiled."""
        with suppress(ReplicaError, OSError, ValueError, KeyError, TypeError):
            for file in self._read_manifest(version_id)[1].files:
                for part in file.parts:
                    self.store.distrust(part.sha256)
        self._manifest_path(version_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up all claims and connections."""
        self.keep(frozenset())
        self._origin.close()

    def _claim(self, version_id: UUID, wanted: list[Wanted], is_ahead: bool) -> None:
        sizes = {one.part.sha256: one.part.size_bytes for one in wanted}
        unused_since = time.time() - SPARED_S if is_ahead else None
        claim = self.store.claim(sizes, label=str(version_id), unused_since=unused_since)
        with self._lock:
            use = self._uses.get(version_id)
            if use is None:
                self._uses[version_id] = _Use(claim)
                return
            use.count += 1
            claim, use.claim = use.claim, claim
        claim.close()

    def _unclaim(self, version_id: UUID) -> None:
        with self._lock:
            use = self._uses[version_id]
            use.count -= 1
            if use.count or version_id in self._kept:
                return
            del self._uses[version_id]
        use.claim.close()

    def _manifest_path(self, version_id: UUID) -> Path:
        return self._manifest_dir / f"{version_id}.json"

    def _read_manifest(self, version_id: UUID) -> tuple[dict[str, Any], Manifest]:
        path = self._manifest_path(version_id)
        document = json.loads(path.read_text())
        manifest = _check_manifest(document, version_id)
        os.utime(path)
        return document, manifest

    def _get_manifest(self, version_id: UUID, cancelled: Stop) -> tuple[dict[str, Any], Manifest]:
        """From the disk if it is there and right: a version never changes."""
        with suppress(OSError, ValueError, KeyError, TypeError, ReplicaError):
            return self._read_manifest(version_id)
        document = self._ask(lambda: self._control_plane.get_artifact(version_id), cancelled)
        manifest = _check_manifest(document, version_id)
        kept = {name: document[name] for name in _DOCUMENT_MEMBERS}
        kept["objects"] = _read_objects(document.get("objects"))
        with disk_errors():
            _write_whole(self._manifest_path(version_id), json.dumps(kept).encode())
        return kept, manifest

    def _fetch_parts(
        self, wanted: list[Wanted], progress: _Progress, cancelled: Stop, parallel: int
    ) -> None:
        # One that fails ends the others: what came of their parts is kept for the next attempt.
        stop = _Either(cancelled)
        with ThreadPoolExecutor(parallel, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._bring, one, progress, stop) for one in wanted]
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

    def _bring(self, wanted: Wanted, progress: _Progress, stop: Stop) -> None:
        """See to it that a part is here and right, whoever fetches it."""
        count = progress.count_part()
        while (state := self.store.look_at(wanted.part)) is not PartState.GOOD:
            if stop.is_set():
                raise CancelledError
            if state is PartState.DAMAGED:
                self.store.make_room()
            with self.store.draft(wanted.part, stop, on_wait=count.set) as draft:
                if draft is not None:
                    with _leaving_a_full_disk(draft):
                        self._fetch(wanted, draft, count, stop)
        count.set(wanted.part.size_bytes)

    def _fetch(self, wanted: Wanted, draft: Draft, count: _PartCount, stop: Stop) -> None:
        if self._fetch_cheaply(wanted, draft, count, stop):
            return
        for attempt in range(PART_ATTEMPTS):
            if attempt:
                time.sleep(0.2)
            draft.restart()
            self._ask(lambda: self._receive(wanted, draft, count, stop), stop)
            if draft.is_right():
                draft.publish()
                metrics.FETCHED.add(by=wanted.part.size_bytes)
                return
        draft.discard()
        detail = f"Part {wanted.number} of file {wanted.file_index} is not what was signed."
        raise ReplicaError("artifact_corrupt", detail)

    def _fetch_cheaply(self, wanted: Wanted, draft: Draft, count: _PartCount, stop: Stop) -> bool:
        """With what is here and what a mirror has; false if none of that was of use.

        Where it comes to something wrong, the platform is asked for all of it: what it sends
        decides whether the part is spoiled at its source.
        """
        mirror = self._origin.find_mirror(wanted)
        if mirror is None and not draft.here_bytes:
            return False
        mirrored_bytes = 0
        if mirror is not None and draft.left_bytes:
            before_bytes = draft.here_bytes
            with suppress(MirrorError):
                for chunk in mirror.stream(wanted, draft.here_bytes):
                    _take(draft, chunk, count, stop)
            mirrored_bytes = draft.here_bytes - before_bytes
        if not draft.here_bytes:
            return False
        if draft.left_bytes:
            self._ask(lambda: self._receive(wanted, draft, count, stop), stop)
        if draft.is_right():
            draft.publish()
            metrics.FETCHED.add(by=wanted.part.size_bytes - draft.found_bytes)
            return True
        # With nothing from before, it can only have been the mirror's.
        if mirror is not None and mirrored_bytes and not draft.found_bytes:
            mirror.note_lie(wanted)
        return False

    def _receive(self, wanted: Wanted, draft: Draft, count: _PartCount, stop: Stop) -> None:
        """Take the rest of a part from the platform."""
        with self._origin.stream(wanted, draft.here_bytes) as chunks:
            for chunk in chunks:
                if len(chunk) > draft.left_bytes:
                    # Too long, so wrong; restarting makes sure that nothing takes it for right.
                    draft.restart()
                    return
                _take(draft, chunk, count, stop)
        if draft.left_bytes:
            raise UnreachableError("the part ended early")

    def _ask(self, call: Callable[[], T], cancelled: Stop) -> T:
        try:
            return retry(call, timeout_s=RETRY_TIMEOUT_S, cancelled=cancelled)
        except UnreachableError as error:
            detail = "The platform did not hand the artifact out in time."
            raise ReplicaError("fetch_failed", detail) from error
        except RefusedError as error:
            detail = f"The platform refused to hand the artifact out: {error.code}."
            raise ReplicaError("fetch_failed", detail) from error


class _Either:
    """Set when the caller's event is, or when one of ours failed."""

    def __init__(self, outer: Stop) -> None:
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

    def __init__(self, total_bytes: int, report: OnProgress) -> None:
        self._lock = threading.Lock()
        self._here_bytes = 0
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
    """One part's share in the progress; falls back when the part begins anew."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress
        self._here_bytes = 0

    def set(self, here_bytes: int) -> None:
        if here_bytes != self._here_bytes:
            added_bytes, self._here_bytes = here_bytes - self._here_bytes, here_bytes
            self._progress.add(added_bytes)


@contextmanager
def _leaving_a_full_disk(draft: Draft) -> Iterator[None]:
    """What did not fit is not left behind either: others need that room."""
    try:
        yield
    except ReplicaError as error:
        if error.reason_code == "disk_full":
            draft.discard()
        raise


def _take(draft: Draft, chunk: bytes, count: _PartCount, stop: Stop) -> None:
    if stop.is_set():
        raise CancelledError
    draft.write(chunk)
    count.set(draft.here_bytes)


def _list_parts(version_id: UUID, manifest: Manifest, objects: dict[str, str]) -> list[Wanted]:
    return [
        Wanted(version_id, file_index, number, part, objects.get(f"{file_index}-{number}", ""))
        for file_index, file in enumerate(manifest.files)
        for number, part in enumerate(file.parts)
    ]


def _read_objects(found: Any) -> dict[str, str]:
    """Names in the object store, by file and part; nothing hangs on them but a mirror."""
    if not isinstance(found, dict):
        return {}
    names = {key: name for key, name in found.items() if isinstance(name, str)}
    # A name is put into an address: one that could lead elsewhere is none.
    return {key: one for key, one in names.items() if _OBJECT.fullmatch(one) and ".." not in one}


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


def _forget_old_manifests(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _MANIFEST_KEPT_S:
                path.unlink()


def _remove_earlier_form(folder: Path) -> None:
    """A cache of before parts were shared had a folder for each version; it is fetched again."""
    for path in folder.iterdir():
        with suppress(ValueError):
            UUID(path.name)
            shutil.rmtree(path, ignore_errors=True)
