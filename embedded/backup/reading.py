"""Look whether a backup is whole, and bring one back."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import psycopg

from embedded import ports, postgres, spawn
from embedded.backup.making import LABEL_FORMAT, OBJECTS_LIST
from embedded.backup.sealed import BackupError, open_stream
from embedded.home import Home, make

RECOVERY_TIMEOUT_S = 3600.0
SEGMENT_SUFFIX = ".sealed"
AWAY = "the database system is "
LOGGED = re.compile(r"(?:\./)?pg_wal/([0-9A-F]{24})")


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup, its key, and the log of changes beside it."""

    place: Path
    document: dict[str, Any]
    private_key: bytes

    @classmethod
    def find(cls, folder: Path, label: str, private_key: bytes) -> Backup:
        """The one of this label; of none, the newest.

        Raises:
            BackupError: There is none, or it cannot be read.
        """
        if not label:
            found = list_labels(folder)
            if not found:
                raise BackupError(f"there is no backup in {folder}")
            label = found[-1]
        return cls(folder / label, read_document(folder / label), private_key)

    @property
    def label(self) -> str:
        """When it was made, in UTC."""
        return self.place.name

    @property
    def folder(self) -> Path:
        """Of all backups."""
        return self.place.parent

    def open(self, part: str, write: Callable[[memoryview], object]) -> None:
        """Hand over the plain bytes of a file of it."""
        name = f"{self.label}/{part}"
        path = self.place / f"{part}.sealed"
        open_stream(path, name=name, private_key=self.private_key, write=write)

    def list_segments(self) -> list[str]:
        """Names of the segments of the log since this backup, and of changes of timelines."""
        names = [path.name.removesuffix(SEGMENT_SUFFIX) for path in self._sealed_segments()]
        first = str(self.document["first_wal"])
        return sorted(one for one in names if one.endswith(".history") or one[8:] >= first[8:])

    def _sealed_segments(self) -> Iterator[Path]:
        yield from (self.folder / "wal").glob(f"*{SEGMENT_SUFFIX}")

    def read_segment(self, name: str) -> bytes:
        """A segment, opened and unpacked."""
        pieces: list[bytes] = []
        open_stream(
            self.folder / "wal" / f"{name}{SEGMENT_SUFFIX}",
            name=f"wal/{name}",
            private_key=self.private_key,
            write=lambda piece: pieces.append(bytes(piece)),
        )
        return gzip.decompress(b"".join(pieces))


def list_labels(folder: Path) -> list[str]:
    """Names of what looks like a backup, the oldest first."""
    return sorted(one.name for one in folder.glob("[0-9]*T*Z") if one.is_dir())


def read_document(place: Path) -> dict[str, Any]:
    """What a backup says of itself.

    Raises:
        BackupError: It is no backup, or one that this program does not know.
    """
    try:
        document: dict[str, Any] = json.loads((place / "backup.json").read_text())
        if document["version"] != 1 or document["label"] != place.name:
            raise BackupError(f"{place.name} was made by another version of this program")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{place} is no backup") from error
    return document


def list_objects(place: Path) -> dict[str, int] | None:
    """Names and bytes of the ciphertext of a backup; None if it is older than such lists.

    Raises:
        BackupError: The list is damaged.
    """
    try:
        text = (place / OBJECTS_LIST).read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BackupError(f"{place / OBJECTS_LIST} cannot be read: {error}") from error
    try:
        return {str(name): int(size_bytes) for name, size_bytes in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BackupError(f"{place / OBJECTS_LIST} is no list of files") from error


# --- Checking -----------------------------------------------------------------------


def check(backup: Backup) -> list[str]:
    """Open everything without writing it anywhere; a line for each thing that was looked at.

    Raises:
        BackupError: Something is missing or is not what was sealed.
    """
    lines, logged = [], []
    for part, promised in backup.document["files"].items():
        path = backup.place / f"{part}.sealed"
        if not path.is_file():
            raise BackupError(f"{path} is missing")
        if path.stat().st_size != promised["size_bytes"] or _hash(path) != promised["sha256"]:
            raise BackupError(f"{path} is not what was made")
        names: list[str] = []
        with _untarring(backup, part) as tar:
            names += [member.name for member in tar]
        if part == "base" and not {"PG_VERSION", "global/pg_control"} <= {
            name.removeprefix("./") for name in names
        }:
            raise BackupError(f"{path} is no data folder of Postgres")
        logged += [found[1] for found in map(LOGGED.fullmatch, names) if found]
        lines.append(f"{part}: {len(names)} files, {promised['size_bytes']:,} bytes sealed")
    segments = [one for one in backup.list_segments() if not one.endswith(".history")]
    for name in segments:
        backup.read_segment(name)
    # What was written while the backup was made is in it: the log has to go on from there.
    gap = find_gap(logged + segments)
    if gap:
        raise BackupError(f"the log of changes has a gap after {gap}")
    lines.append(f"log: {len(segments)} segments without a gap")
    if "objects" in backup.document:
        lines.append(f"objects: {_check_objects(backup)} files")
    return lines


def _check_objects(backup: Backup) -> int:
    objects, wanted = backup.folder / "objects", list_objects(backup.place)
    if wanted is None:
        count, promised = sum(one.is_file() for one in objects.rglob("*")), backup.document
        if count < promised["objects"]:
            raise BackupError(f"{objects} has {count} of {promised['objects']} files")
        return count
    for name, size_bytes in wanted.items():
        path = objects / name
        # One that was still being uploaded has grown since.
        if not path.is_file() or path.stat().st_size < size_bytes:
            raise BackupError(f"{path} is missing, or has less than {size_bytes:,} bytes")
    return len(wanted)


def find_gap(segments: list[str]) -> str:
    """The segment after which one is missing; empty if none is. Segments have 16 MiB."""
    numbers = sorted({(int(one[8:16], 16) << 8) + int(one[16:24], 16) for one in segments})
    for number, following in pairwise(numbers):
        if following != number + 1:
            return f"{number >> 8:08X}{number & 0xFF:08X}"
    return ""


# --- Restoring ----------------------------------------------------------------------


def restore(backup: Backup, home: Home, *, until: datetime | None = None) -> datetime:
    """Make a home of a backup, with the database as of its end, or of a moment after it.

    Returns when the last thing that came back had happened.

    Args:
        backup: Where from.
        home: Must not exist, or be empty.
        until: Up to which moment changes are brought back; None for all there are.

    Raises:
        BackupError: The place is taken, the backup is not whole, or the moment is not in it.
    """
    if home.path.exists() and any(home.path.iterdir()):
        raise BackupError(f"{home.path} is not empty: a restore never overwrites anything")
    if "home" not in backup.document["files"]:
        raise BackupError("this backup holds a database only; restore it with --data")
    make(home.path)
    with _untarring(backup, "home") as tar:
        tar.extractall(home.path, filter="data")
    for source in (path for path in (backup.folder / "objects").rglob("*") if path.is_file()):
        target = home / "objects" / source.relative_to(backup.folder / "objects")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o600)
    secrets = json.loads((home / "secrets.json").read_text())
    password = secrets["postgres_superuser"]
    return restore_data(backup, home / "postgres", password=password, until=until)


def restore_data(
    backup: Backup, folder: Path, *, password: str, until: datetime | None = None
) -> datetime:
    """Make a data folder of Postgres of a backup, and carry its changes out up to a moment.

    Returns as `restore`.

    Args:
        backup: Where from.
        folder: Gets the folder `data`, which must not exist.
        password: Of the superuser as of the backup.
        until: As in `restore`.
    """
    user = postgres.server_user(folder)
    data, log_folder = folder / "data", folder / "restored-log"
    if data.exists():
        raise BackupError(f"{data} exists: a restore never overwrites anything")
    for one in (data, log_folder):
        one.mkdir(mode=0o700)
    with _untarring(backup, "base") as tar:
        tar.extractall(data, filter="data")
    _verify(data)
    for name in backup.list_segments():
        (log_folder / name).write_bytes(backup.read_segment(name))
    (data / "recovery.signal").touch(mode=0o600)
    for path in (data, log_folder, *data.rglob("*"), *log_folder.rglob("*")):
        user.own(path)
    last = _recover(folder, password, log_folder, until)
    shutil.rmtree(log_folder)
    # Where nothing followed: no earlier than what is surely in it.
    made_at = datetime.strptime(backup.label, LABEL_FORMAT).replace(tzinfo=UTC)
    return (last or made_at).astimezone(UTC)


def _verify(data: Path) -> None:
    """Each file against the list that the server wrote when the backup was made."""
    command: list[str | Path] = [postgres.programs() / "pg_verifybackup"]
    command += ["--no-parse-wal", "--quiet", data]
    outcome = subprocess.run(
        command, env=postgres.environment(), capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        last = (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BackupError(f"the data folder is not what the server wrote: {last}")


def _recover(
    folder: Path, password: str, log_folder: Path, until: datetime | None
) -> datetime | None:
    """Run the server until it has carried out what it should, and stop it again.

    Returns when the last change was made that it carried out; None if there was none.
    """
    port = ports.choose(set())
    settings = {
        "restore_command": f'cp "{log_folder}/%f" "%p"',
        "recovery_target_action": "promote",
        "hot_standby": "off",
        "primary_slot_name": "",
    }
    if until is not None:
        settings["recovery_target_time"] = until.astimezone(UTC).isoformat()
    command = [*postgres.command(folder, port)]
    command += [f"--{name}={value}" for name, value in settings.items()]
    log = folder / "restore.log"
    process = spawn.start(
        command,
        # `restore_command` is run by a shell.
        env=postgres.environment(),
        cwd=Path("/"),
        log=log,
        user=postgres.server_user(folder),
        death_signal=signal.SIGINT,
    )
    try:
        return _wait_until_promoted(process, postgres.url(port, postgres.SUPERUSER, password), log)
    finally:
        process.send_signal(postgres.STOP_SIGNAL)
        process.wait()


def _wait_until_promoted(
    process: subprocess.Popen[bytes], address: str, log: Path
) -> datetime | None:
    deadline = time.monotonic() + RECOVERY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BackupError(f"the server did not come up: {_why(log)}")
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=2) as connection:
                row = connection.execute(
                    "SELECT pg_is_in_recovery(), pg_last_xact_replay_timestamp()"
                ).fetchone()
            if row is not None and row[0] is False:
                last: datetime | None = row[1]
                return last
        except psycopg.OperationalError:
            pass
        time.sleep(0.2)
    raise BackupError("the server took too long to carry out its log of changes")


def _why(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    # While it comes up and goes down it turns us away: that is no reason.
    telling = [line for line in lines if ("FATAL" in line or "PANIC" in line) and AWAY not in line]
    return (telling or lines or ["it said nothing"])[-1]


@contextmanager
def _untarring(backup: Backup, part: str) -> Iterator[tarfile.TarFile]:
    """A sealed tar as a stream: it is opened by a thread, and never lies plain on a disk."""
    reading, writing = os.pipe()
    failures: list[BackupError] = []

    def feed() -> None:
        with os.fdopen(writing, "wb") as sink:
            try:
                backup.open(part, sink.write)
            except BackupError as error:
                failures.append(error)
            except BrokenPipeError:
                pass  # The reader gave up, and says why.

    thread = threading.Thread(target=feed)
    thread.start()
    source: BinaryIO = os.fdopen(reading, "rb")
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:
            yield tar
        while source.read(1 << 20):
            pass  # The end of a tar is not the end of what was sealed.
    except tarfile.TarError as error:
        raise (failures[0] if failures else BackupError(f"{part} is no tar: {error}")) from error
    finally:
        source.close()
        thread.join()
    if failures:
        raise failures[0]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_moment(text: str) -> datetime:
    """A moment such as 2026-11-23T09:45:00Z."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BackupError(f"{text!r} is no moment such as 2026-11-23T09:45:00Z") from None
    if moment.tzinfo is None:
        raise BackupError(f"{text!r} does not say its time zone; add Z for UTC")
    return moment
