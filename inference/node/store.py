"""Ciphertext on one disk, shared by all nodes of a machine: parts, addressed by their SHA-256.

    parts/<sha256>                 a whole part, which was hashed before it got this name
    drafts/<sha256>-<size>         one that is being fetched, or was when its fetch was cut
    pins/<random>                  a claim: parts that a process uses, or has begun to fetch
    damaged/<sha256>-<time>        parts that went bad on this disk, the last few
    damage.json                    how many there were
    lock                           held while claims are made and room is made

Every lock here is the kernel's (flock): it ends with the process that held it, whatever ended
that. A claim whose lock is free belongs to nobody, and a draft whose lock is free may be gone
on with by whoever needs it. Only the folder counts: no process tells another anything.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inference.node.errors import CancelledError, ReplicaError
from inference.node.log import event
from strongroom.sealing.manifest import Part

logger = logging.getLogger("node.store")

# Left to logs and to others on the same disk.
DISK_RESERVE_BYTES = 256 * 1024 * 1024
# Held for the time of a listing and some removals; longer, and its holder hangs.
LOCK_TIMEOUT_S = 30.0
# Whoever fetches a part for us and does not get on for so long has hung.
STALL_S = 60.0
# For somebody to look at; each may have 64 MiB.
DAMAGED_KEPT = 2
# How often a write is tried again after room was made for it.
ROOM_ATTEMPTS = 3
_ROUND_BYTES = 64 * 1024 * 1024
_LOOK_S = 0.05
_READ_BYTES = 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DRAFT = re.compile(r"([0-9a-f]{64})-([0-9]{1,12})")


class PartState(enum.Enum):
    """What was found of a part."""

    GOOD = "good"
    MISSING = "missing"
    DAMAGED = "damaged"


class Stop(Protocol):
    """What ends a wait early: a `threading.Event`, or something like it."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What lies in the folder now, in octets where a name ends so."""

    limit_bytes: int
    part_count: int
    part_bytes: int
    draft_count: int
    draft_bytes: int
    pinned_bytes: int
    damaged_bytes: int
    # Parts that were found damaged since the folder was made.
    damage_count: int

    @property
    def used_bytes(self) -> int:
        """All that counts against the limit and lies there."""
        return self.part_bytes + self.draft_bytes + self.damaged_bytes

    def to_json(self) -> dict[str, int]:
        """The form in which the command prints it."""
        names = (
            *("limit_bytes", "used_bytes", "part_count", "part_bytes", "draft_count"),
            *("draft_bytes", "pinned_bytes", "damaged_bytes", "damage_count"),
        )
        return {name: getattr(self, name) for name in names}


class Claim:
    """Parts that this process uses: nobody removes them while it lives and has not closed."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    def close(self) -> None:
        """Need them no more."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


class Draft:
    """A part on its way, locked: what is there of it already, and its hash so far."""

    def __init__(self, store: PartStore, part: Part, path: Path, handle: int) -> None:
        self._store = store
        self._part = part
        self._path = path
        self._handle = handle
        self._digest = hashlib.sha256()
        self.here_bytes = 0
        # Of this, so much was here before this process began, and may be anything.
        self.found_bytes = 0
        self._resume()

    @property
    def left_bytes(self) -> int:
        """What is still missing."""
        return self._part.size_bytes - self.here_bytes

    def write(self, chunk: bytes) -> None:
        """Add octets at the end.

        Raises:
            ReplicaError: `disk_full`, or `fetch_failed` for another fault of the disk.
        """
        view = memoryview(chunk)
        rooms = 0
        with disk_errors():
            while view:
                try:
                    count = os.pwrite(self._handle, view, self.here_bytes)
                except OSError as error:
                    rooms += 1
                    if error.errno not in _FULL or rooms > ROOM_ATTEMPTS:
                        raise
                    if not self._store.free_disk(self.left_bytes):
                        raise
                    continue
                self._digest.update(view[:count])
                self.here_bytes += count
                view = view[count:]

    def restart(self) -> None:
        """Forget what is here."""
        with disk_errors():
            os.ftruncate(self._handle, 0)
        self._digest = hashlib.sha256()
        self.here_bytes = self.found_bytes = 0

    def is_right(self) -> bool:
        """Whether it is whole, and what was signed."""
        return self.left_bytes == 0 and self._digest.hexdigest() == self._part.sha256

    def publish(self) -> None:
        """Give it its final name; only one that is right."""
        assert self.is_right(), "a part that is not what was signed"
        with disk_errors():
            # Else a power cut could leave a file with its final name and other content.
            os.fsync(self._handle)
            self._path.replace(self._store.path_of(self._part.sha256))
        self._store.note_checked(self._part.sha256)

    def discard(self) -> None:
        """Remove it: nothing of it is of use."""
        self._path.unlink(missing_ok=True)

    def _resume(self) -> None:
        with disk_errors():
            size_bytes = os.fstat(self._handle).st_size
            if size_bytes > self._part.size_bytes:
                os.ftruncate(self._handle, 0)
                size_bytes = 0
            while self.here_bytes < size_bytes:
                chunk = os.pread(self._handle, _READ_BYTES, self.here_bytes)
                if not chunk:
                    break
                self._digest.update(chunk)
                self.here_bytes += len(chunk)
        self.found_bytes = self.here_bytes


class PartStore:
    """The folder; may be used by several threads and processes.

    Args:
        folder: Made where there is none; for its owner only.
        limit_bytes: What may lie in it, of all processes together.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._checked_lock = threading.Lock()
        for name in ("parts", "drafts", "pins", "damaged"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def path_of(self, digest: str) -> Path:
        """Where a whole part lies, or would."""
        return self.folder / "parts" / digest

    def claim(
        self, sizes: Mapping[str, int], *, label: str = "", unused_since: float | None = None
    ) -> Claim:
        """Keep parts from removal, those that are not here yet among them, and make room for them.

        Args:
            sizes: In octets, by digest.
            label: Whose they are, for those who look.
            unused_since: Make room only by what nobody used since then (seconds of the epoch);
                None: by whatever nobody uses now.

        Raises:
            ReplicaError: `disk_full`: what is in use leaves no room.
        """
        with self._locked(), disk_errors():
            claim = self._write_claim(sizes, label)
            try:
                self._make_room(unused_since)
            except BaseException:
                claim.close()
                raise
        return claim

    def make_room(self) -> None:
        """Make room for all that is claimed.

        Raises:
            ReplicaError: `disk_full`: what is in use leaves none.
        """
        with self._locked(), disk_errors():
            self._make_room(None)

    def free_disk(self, size_bytes: int) -> bool:
        """Remove so much of what nobody claims, the longest unused first; false: there is none."""
        with self._locked():
            freed_bytes = 0
            for victim in self._look().victims():
                freed_bytes += self._remove(victim)
                if freed_bytes >= size_bytes:
                    break
        return freed_bytes > 0

    def look_at(self, part: Part) -> PartState:
        """Whether a part is here and what was signed; a damaged one is set aside and counted.

        It is read once by each process, and again when its file was written to since.
        """
        path = self.path_of(part.sha256)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return PartState.MISSING
        except OSError:
            # A link, or a disk that does not find its own file.
            return self._set_aside(part.sha256, None)
        try:
            stamp = _stamp(handle)
            if self._checked.get(part.sha256) != stamp and not _is_intact(handle, part):
                return self._set_aside(part.sha256, stamp)
            with self._checked_lock:
                self._checked[part.sha256] = stamp
            _note_use(handle)
            return PartState.GOOD
        finally:
            os.close(handle)

    def distrust(self, digest: str) -> None:
        """Read it again before its next use."""
        with self._checked_lock:
            self._checked.pop(digest, None)

    def note_checked(self, digest: str) -> None:
        """It was hashed on its way in."""
        with suppress(OSError):
            handle = os.open(self.path_of(digest), os.O_RDONLY | os.O_CLOEXEC)
            try:
                with self._checked_lock:
                    self._checked[digest] = _stamp(handle)
            finally:
                os.close(handle)

    @contextmanager
    def draft(
        self, part: Part, stop: Stop, *, on_wait: Callable[[int], None] = lambda _: None
    ) -> Iterator[Draft | None]:
        """Be the one who fetches a part, or wait for who does.

        Args:
            part: Which.
            stop: Ends the wait.
            on_wait: Given how many octets another process has by now.

        Yields:
            The draft; None where the part has come meanwhile, or has gone again.

        Raises:
            CancelledError: `stop` was set.
            ReplicaError: `fetch_failed`: the other one hangs. `disk_full`.
        """
        path = self.folder / "drafts" / f"{part.sha256}-{part.size_bytes}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with disk_errors():
            handle = os.open(path, flags, 0o600)
        try:
            _wait_for_lock(handle, stop, on_wait)
            if not _is_same_file(handle, path):
                yield None  # It was finished, or removed, while we waited.
            elif self.path_of(part.sha256).exists():
                path.unlink()  # Made by our own look, after it was finished.
                yield None
            else:
                yield Draft(self, part, path, handle)
        finally:
            os.close(handle)

    def verify(self, *, on_part: Callable[[str, bool], None] = lambda *_: None) -> tuple[int, int]:
        """Read every part; returns how many were right and how many were not.

        The damaged ones are set aside: whoever needs them fetches them again.
        """
        counts = [0, 0]
        for path in sorted((self.folder / "parts").iterdir()):
            try:
                size_bytes = path.stat().st_size
            except FileNotFoundError:
                continue
            self.distrust(path.name)
            state = self.look_at(Part(size_bytes, path.name))
            if state is PartState.MISSING:
                continue  # Another process made room meanwhile.
            is_good = state is PartState.GOOD
            counts[0 if is_good else 1] += 1
            on_part(path.name, is_good)
        return counts[0], counts[1]

    def status(self) -> StoreStatus:
        """What lies here, for people and for the report."""
        with self._locked():
            found = self._look()
        return StoreStatus(
            limit_bytes=self.limit_bytes,
            part_count=len(found.parts),
            part_bytes=sum(one.size_bytes for one in found.parts.values()),
            draft_count=len(found.drafts),
            draft_bytes=sum(one.size_bytes for one in found.drafts.values()),
            pinned_bytes=sum(
                one.size_bytes for name, one in found.parts.items() if name in found.claimed
            ),
            damaged_bytes=sum(one.size_bytes for one in found.damaged),
            damage_count=self.damage_count(),
        )

    def describe(self) -> dict[str, Any]:
        """What the node's report says; rounded, so that it does not differ for nothing.

        Without the lock: a process that hangs with it must not silence the node.
        """
        used_bytes = 0
        with suppress(OSError):
            for name in ("parts", "drafts", "damaged"):
                used_bytes += sum(one.size_bytes for one in _list_entries(self.folder / name))
        return {
            "used_bytes": used_bytes // _ROUND_BYTES * _ROUND_BYTES,
            "limit_bytes": self.limit_bytes,
            "damage": self.damage_count(),
        }

    def damage_count(self) -> int:
        """Parts that were found damaged since the folder was made."""
        try:
            return int(json.loads((self.folder / "damage.json").read_text())["count"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with disk_errors():
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    detail = "Another process has held the node's cache for too long."
                    raise ReplicaError("fetch_failed", detail)
                time.sleep(_LOOK_S / 5)
            yield
        finally:
            os.close(handle)

    def _write_claim(self, sizes: Mapping[str, int], label: str) -> Claim:
        """Whole and locked before it has a name that anybody looks at."""
        path = self.folder / "pins" / secrets.token_hex(8)
        draft = path.with_suffix(".new")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            octets = json.dumps({"label": label, "parts": dict(sizes)}).encode()
            self._write_small(handle, octets)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            os.close(handle)
            raise
        return Claim(path, handle)

    def _write_small(self, handle: int, octets: bytes) -> None:
        """On a disk without any room even a claim needs something to go first."""
        try:
            _write_all(handle, octets)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            for victim in self._look().victims():
                self._remove(victim)
                break
            _write_all(handle, octets)

    def _make_room(self, unused_since: float | None) -> None:
        """Remove what is unclaimed, the longest unused first, until all that is claimed fits."""
        found = self._look()
        over_bytes = found.promised_bytes() - self.limit_bytes
        short_bytes = found.outstanding_bytes() - self._free_bytes()
        if found.outstanding_bytes() == 0:
            return  # All is here: what is not asked for more needs no room.
        for victim in found.victims(unused_since):
            if over_bytes <= 0 and short_bytes <= 0:
                break
            removed_bytes = self._remove(victim)
            over_bytes -= removed_bytes
            short_bytes -= removed_bytes
        missing_bytes = max(over_bytes, short_bytes)
        if missing_bytes > 0:
            detail = f"The node's cache lacks {missing_bytes} bytes that nothing unused could give."
            raise ReplicaError("disk_full", detail)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free - DISK_RESERVE_BYTES

    def _remove(self, victim: _Entry) -> int:
        """Remove a file; returns how much room that gave. A draft that is fetched stays."""
        if victim.path.parent.name != "drafts":
            victim.path.unlink(missing_ok=True)
            self.distrust(victim.path.name)
            return victim.size_bytes
        try:
            handle = os.open(victim.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            if not _try_lock(handle, fcntl.LOCK_EX):
                return 0
            victim.path.unlink(missing_ok=True)
            return victim.size_bytes
        finally:
            os.close(handle)

    def _look(self) -> _View:
        """List the folder; the caller has the lock. Claims of dead processes go."""
        drafts = {}
        for entry in _list_entries(self.folder / "drafts"):
            if found := _DRAFT.fullmatch(entry.path.name):
                drafts[found[1]] = entry
        return _View(
            parts={one.path.name: one for one in _list_entries(self.folder / "parts")},
            drafts=drafts,
            damaged=_list_entries(self.folder / "damaged"),
            claimed=self._read_claims(),
        )

    def _read_claims(self) -> dict[str, int]:
        claimed: dict[str, int] = {}
        for path in (self.folder / "pins").iterdir():
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                with os.fdopen(handle, "rb") as file:
                    if _try_lock(handle, fcntl.LOCK_SH):
                        path.unlink(missing_ok=True)
                        continue
                    parts = json.load(file)["parts"]
                    claimed.update({str(name): int(size) for name, size in parts.items()})
        return claimed

    def _set_aside(self, digest: str, stamp: tuple[int, int, int] | None) -> PartState:
        """A part that is not what its name says: out of the way, counted and told."""
        path = self.path_of(digest)
        self.distrust(digest)
        with self._locked():
            # Another process may have done so, and have fetched it anew.
            if stamp is not None and _stamp_of(path) != stamp:
                return PartState.MISSING
            count = self.damage_count() + 1
            aside = self.folder / "damaged" / f"{digest[:64]}-{time.time_ns()}"
            try:
                path.replace(aside)
            except FileNotFoundError:
                return PartState.MISSING
            with suppress(OSError):
                draft = self.folder / "damage.json.new"
                draft.write_text(json.dumps({"count": count, "last": digest, "at": time.time()}))
                draft.replace(self.folder / "damage.json")
            for old in sorted(_list_entries(aside.parent), key=_by_age)[:-DAMAGED_KEPT]:
                old.path.unlink(missing_ok=True)
        event(logger, "cache.damaged", level=logging.WARNING, part=digest, count=count)
        return PartState.DAMAGED


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file, and when it was used last (nanoseconds of the epoch)."""

    path: Path
    size_bytes: int
    used_at_ns: int


@dataclass(frozen=True, slots=True)
class _View:
    """The folder, as it was listed under its lock."""

    parts: dict[str, _Entry]
    drafts: dict[str, _Entry]
    damaged: list[_Entry]
    # Octets that a part will have, by digest.
    claimed: dict[str, int] = field(default_factory=dict)

    def outstanding_bytes(self) -> int:
        """What is claimed and still to come."""
        return sum(
            max(0, size_bytes - (self.drafts[name].size_bytes if name in self.drafts else 0))
            for name, size_bytes in self.claimed.items()
            if name not in self.parts
        )

    def promised_bytes(self) -> int:
        """What lies here once all that is claimed has come."""
        here = [*self.parts.values(), *self.drafts.values(), *self.damaged]
        return sum(one.size_bytes for one in here) + self.outstanding_bytes()

    def victims(self, unused_since: float | None = None) -> list[_Entry]:
        """What may go, in that order: damaged parts, then what was unused longest."""
        unclaimed = [
            one
            for found in (self.parts, self.drafts)
            for name, one in found.items()
            if name not in self.claimed
            and (unused_since is None or one.used_at_ns < unused_since * 1e9)
        ]
        return [*sorted(self.damaged, key=_by_age), *sorted(unclaimed, key=_by_age)]


def _by_age(entry: _Entry) -> tuple[int, str]:
    return entry.used_at_ns, entry.path.name


def _list_entries(folder: Path) -> list[_Entry]:
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            about = path.lstat()
            used_at_ns = max(about.st_atime_ns, about.st_mtime_ns)
            found.append(_Entry(path, about.st_size, used_at_ns))
    return found


def _stamp(handle: int) -> tuple[int, int, int]:
    """Changes when the file is written to; not when it is used, which is its access time."""
    about = os.fstat(handle)
    return about.st_ino, about.st_mtime_ns, about.st_size


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _note_use(handle: int) -> None:
    # Set by hand: disks are mounted so that reading alone may not be noted.
    with suppress(OSError):
        os.utime(handle, ns=(time.time_ns(), os.fstat(handle).st_mtime_ns))


def _is_intact(handle: int, part: Part) -> bool:
    if os.fstat(handle).st_size != part.size_bytes:
        return False
    digest, at = hashlib.sha256(), 0
    try:
        while chunk := os.pread(handle, _READ_BYTES, at):
            digest.update(chunk)
            at += len(chunk)
    except OSError:
        return False  # A block that cannot be read is damage as well.
    return digest.hexdigest() == part.sha256


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(handle: int, stop: Stop, on_wait: Callable[[int], None]) -> None:
    """Wait while another process fetches, as long as it gets on."""
    size_bytes, moved_at = -1, time.monotonic()
    while not _try_lock(handle, fcntl.LOCK_EX):
        if stop.wait(_LOOK_S):
            raise CancelledError
        now_bytes = os.fstat(handle).st_size
        if now_bytes != size_bytes:
            size_bytes, moved_at = now_bytes, time.monotonic()
            on_wait(now_bytes)
        elif time.monotonic() - moved_at > STALL_S:
            detail = "Another process on this machine fetches a part and does not get on."
            raise ReplicaError("fetch_failed", detail)


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.lstat().st_ino
    except FileNotFoundError:
        return False


def _write_all(handle: int, octets: bytes) -> None:
    at = 0
    while at < len(octets):
        at += os.pwrite(handle, octets[at:], at)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Give a disk without room its own code; another fault of it is a failed fetch."""
    try:
        yield
    except OSError as error:
        code = "disk_full" if error.errno in _FULL else "fetch_failed"
        raise ReplicaError(code, f"The node's disk refused: {error.strerror}.") from error
