"""Make a backup: all of Postgres as of now, and of a home what the database does not hold.

```
FOLDER/20261123T094500Z/backup.json    what it holds; no secret
                        objects.json   names and bytes of the ciphertext that belongs to it
                        base.sealed    pg_basebackup's tar
                        home.sealed    secrets, keys and certificates of a home
FOLDER/wal/*.sealed                    the log of changes since, see `following`
FOLDER/objects/...                     ciphertext of models, as it lies in the home
FOLDER/.lock                           held while anything but the log is added or deleted
```
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from embedded import postgres
from embedded.backup.sealed import BackupError, seal_stream
from embedded.home import Home
from strongroom.sealing import wrap

# Of a home, besides Postgres and the ciphertext: what could not be made anew. The node joins anew.
HOME_PARTS = ("secrets.json", "tls", "keybroker")
LABEL_FORMAT = "%Y%m%dT%H%M%SZ"
OBJECTS_LIST, DRAFT_SUFFIX = "objects.json", ".new"


def database_url(home: Home) -> str:
    """The superuser's address in a running home."""
    try:
        port = int(json.loads((home / "ports.json").read_text())["postgres"])
        password = json.loads((home / "secrets.json").read_text())["postgres_superuser"]
    except (OSError, ValueError, KeyError) as error:
        raise BackupError(f"{home.path} is no home that was started") from error
    return postgres.url(port, postgres.SUPERUSER, password, postgres.DATABASE)


def make(folder: Path, *, url: str, public_key: bytes, home: Home | None = None) -> Path:
    """Make a backup below a folder; returns its place.

    Args:
        folder: Of all backups; made if missing.
        url: Of a role that may replicate.
        public_key: Of the backups.
        home: Also what it holds besides the database.

    Raises:
        BackupError: It did not come about; nothing of it stays.
    """
    place = folder / datetime.now(UTC).strftime(LABEL_FORMAT)
    draft = folder / f".{place.name}{DRAFT_SUFFIX}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(folder):
            _fill(draft, place, url, public_key, home)
    except (OSError, psycopg.Error) as error:
        raise BackupError(f"the backup did not come about: {error}") from error
    return place


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from adding backups to a folder, and from deleting there.

    What a new backup shares with old ones is in no list before it is complete.

    Raises:
        BackupError: Somebody else does it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"a backup is being made or deleted in {folder}") from None
        yield


def _fill(draft: Path, place: Path, url: str, public_key: bytes, home: Home | None) -> None:
    label, folder = place.name, place.parent
    if place.exists():
        raise BackupError(f"{place} exists already")
    try:
        draft.mkdir(mode=0o700)
        document = _describe(url, public_key, label)
        document["files"] = {"base": _seal_base(draft, url, label, public_key)}
        if home is not None:
            document["files"]["home"] = _seal_home(draft, home, label, public_key)
            objects = copy_new(home / "objects", folder / "objects")
            (draft / OBJECTS_LIST).write_text(json.dumps(objects, indent=0) + "\n")
            document["objects"] = len(objects)
        (draft / "backup.json").write_text(json.dumps(document, indent=2) + "\n")
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy_new(source: Path, target: Path) -> dict[str, int]:
    """Copy the files that are missing below `target`; returns names and bytes of all it wants.

    A name stands for one content for ever, so that what is there needs no second look, unless it
    was copied while it was still being uploaded.
    """
    wanted: dict[str, int] = {}
    for path in sorted(one for one in source.rglob("*") if one.is_file()):
        name = path.relative_to(source)
        copy = target / name
        with contextlib.suppress(FileNotFoundError):  # Deleted meanwhile: nobody wants it.
            if not copy.exists() or copy.stat().st_size != path.stat().st_size:
                copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                draft = copy.with_name(copy.name + ".new")
                shutil.copyfile(path, draft)
                draft.rename(copy)
            wanted[str(name)] = copy.stat().st_size
    return wanted


def _describe(url: str, public_key: bytes, label: str) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            """SELECT current_setting('server_version'), timeline_id,
                   pg_walfile_name(pg_current_wal_lsn())
               FROM pg_control_checkpoint()"""
        ).fetchone()
    assert row is not None
    return {
        "version": 1,
        "label": label,
        "kid": wrap.derive_kid(public_key),
        "postgres": row[0],
        "timeline": row[1],
        "first_wal": row[2],
    }


def _seal_base(draft: Path, url: str, label: str, public_key: bytes) -> dict[str, Any]:
    address, env = connection_of(url)
    command: list[str | Path] = [postgres.programs() / "pg_basebackup", f"--dbname={address}"]
    command += ["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast"]
    command += ["--no-password", "--label", label]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env)
        assert process.stdout is not None
        try:
            size_bytes, digest = seal_stream(
                process.stdout, draft / "base.sealed", name=f"{label}/base", public_key=public_key
            )
        finally:
            process.stdout.close()
            code = process.wait()
        if code != 0:
            errors.seek(0)
            last = (errors.read().decode(errors="replace").strip().splitlines() or ["?"])[-1]
            raise BackupError(f"pg_basebackup failed: {last}")
    return {"size_bytes": size_bytes, "sha256": digest}


def _seal_home(draft: Path, home: Home, label: str, public_key: bytes) -> dict[str, Any]:
    """In memory: what is in it never lies unsealed in the backup's folder, and it is small."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in HOME_PARTS:
            if (home / name).exists():
                tar.add(home / name, arcname=name)
    packed.seek(0)
    target, name = draft / "home.sealed", f"{label}/home"
    size_bytes, digest = seal_stream(packed, target, name=name, public_key=public_key)
    return {"size_bytes": size_bytes, "sha256": digest}


def connection_of(url: str) -> tuple[str, dict[str, str]]:
    """An address without its password, and the environment that brings it.

    Command lines can be read by every user.
    """
    known = conninfo_to_dict(url)
    password = str(known.pop("password", "") or "")
    return make_conninfo("", **known), postgres.environment() | {"PGPASSWORD": password}
