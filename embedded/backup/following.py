"""Follow the log of changes, so that a restore may go to any moment after a backup.

`pg_receivewal` writes what the server does into a folder of our own; each finished file is
packed, sealed and deleted. A slot at the server keeps what was not fetched yet, also while nobody
follows: its disk fills if nobody does for days. `drop-slot` lets it forget.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import signal
import subprocess
import threading
from pathlib import Path

import psycopg

from embedded import postgres
from embedded.backup.making import connection_of
from embedded.backup.sealed import BackupError, seal_stream

logger = logging.getLogger(__name__)

SLOT = "strongroom_backup"
LOOK_EVERY_S = 1.0
SEGMENT = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
_STOP_TIMEOUT_S = 20.0


def follow(
    folder: Path, *, url: str, public_key: bytes, switch_every_s: float, stop: threading.Event
) -> None:
    """Fetch and seal until told to stop.

    Args:
        folder: Of all backups.
        url: Of a role that may replicate, and may end a segment.
        public_key: Of the backups.
        switch_every_s: After how long what was done is certain to be in the backup.
        stop: Ends it.

    Raises:
        BackupError: The server is away, or refuses.
    """
    incoming, target = folder / ".incoming", folder / "wal"
    for one in (incoming, target):
        one.mkdir(mode=0o700, parents=True, exist_ok=True)
    address, env = connection_of(url)
    program: list[str | Path] = [
        postgres.programs() / "pg_receivewal",
        f"--dbname={address}",
        f"--slot={SLOT}",
    ]
    _run([*program, "--create-slot", "--if-not-exists"], env)
    command: list[str | Path] = [*program, f"--directory={incoming}", "--no-loop", "--no-password"]
    log = incoming / "pg_receivewal.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=env)
    switched_at = 0.0
    position = ""
    try:
        while not stop.is_set():
            _seal_finished(incoming, target, public_key)
            if process.poll() is not None:
                raise BackupError(f"pg_receivewal ended: {_last_line(log)}")
            switched_at += LOOK_EVERY_S
            if switched_at >= switch_every_s:
                position, switched_at = _end_segment(url, position), 0.0
            stop.wait(LOOK_EVERY_S)
    finally:
        _stop(process)
        _seal_finished(incoming, target, public_key)


def _end_segment(url: str, position: str) -> str:
    """Have the server end its segment, if anything was done since the last time."""
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
            if row[0] == position:
                return position
            connection.execute("SELECT pg_switch_wal()")
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.OperationalError as error:
        raise BackupError(f"the server does not answer: {error}") from error


def _seal_finished(incoming: Path, target: Path, public_key: bytes) -> None:
    for path in sorted(incoming.iterdir()):
        if not SEGMENT.fullmatch(path.name):
            continue  # A part of one.
        sealed = target / f"{path.name}.sealed"
        if not sealed.exists():
            packed = io.BytesIO(gzip.compress(path.read_bytes(), compresslevel=1))
            seal_stream(packed, sealed, name=f"wal/{path.name}", public_key=public_key)
            logger.info("sealed %s", path.name)
        # The newest stays: pg_receivewal knows from it where to go on.
        if any(later.name > path.name for later in incoming.iterdir() if later != path):
            path.unlink()


def _run(command: list[str | Path], env: dict[str, str]) -> None:
    outcome = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        last = (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BackupError(f"the slot could not be made: {last}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def drop_slot(url: str) -> bool:
    """Let the server forget that anybody follows; false if nobody did."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = %s",
            [SLOT],
        ).fetchall()
    return bool(found)
