"""The restore drill: a real Postgres is backed up, goes on, is lost, and comes back.

What happened after the moment that is restored is known to Stripe's stand-in alone; the
reconciliation has to find it and book it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from embedded import home as homes
from embedded import ports, postgres, spawn
from embedded.backup import reading, sealed
from embedded.backup.__main__ import main
from embedded.backup.reading import Backup
from embedded.backup.sealed import BackupError
from embedded.environment import ROOT
from embedded.home import Home
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess, wait_until

pytestmark = pytest.mark.timeout(600)
ARTIFACT = "artifacts/0b7a/00-000000-aaaa"


@dataclass
class Platform:
    """A home with a database, and what is done to it by processes of their own."""

    home: Home
    fake: FakeStripeProcess

    def environment(self) -> dict[str, str]:
        secrets = json.loads((self.home / "secrets.json").read_text())
        port = json.loads((self.home / "ports.json").read_text())["postgres"]
        address = postgres.url(port, postgres.OWNER, secrets["strongroom_owner"])
        return os.environ | {
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "STRONGROOM_DATABASE_URL": address,
            "STRONGROOM_OBJECTS_DIR": str(self.home / "objects"),
            "STRONGROOM_STRIPE_SECRET_KEY": SECRET_KEY,
            "STRONGROOM_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRONGROOM_STRIPE_API_BASE": self.fake.url,
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def do(self, *words: str) -> str:
        outcome = self.run("-m", "tests.embedded.drill_traffic", *words)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout.strip().splitlines()[-1] if outcome.stdout else ""

    def check(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("manage.py", "check_restored", *words)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The server while it runs; yields the superuser's address."""
        secrets = homes.load_secrets(self.home)
        port = ports.choose(set())
        homes.write_private(self.home / "ports.json", {"postgres": port})
        folder = self.home / "postgres"
        user = postgres.server_user(folder)
        postgres.prepare(folder, password=secrets["postgres_superuser"], user=user, durable=False)
        process = spawn.start(
            postgres.command(folder, port, durable=False),
            env=postgres.environment(),
            cwd=Path("/"),
            log=self.home / "logs" / "postgres.log",
            user=user,
            death_signal=signal.SIGQUIT,
        )
        address = postgres.url(port, postgres.SUPERUSER, secrets["postgres_superuser"], "postgres")
        try:
            wait_until(lambda: postgres.is_ready(address), 60)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@dataclass
class Drill:
    """What the story left behind: backups, and what was known at each moment."""

    folder: Path
    private: Path
    fake: FakeStripeProcess
    moment: datetime
    at_backup: str
    at_moment: str
    at_end: str

    def find(self, folder: Path | None = None) -> Backup:
        return Backup.find(folder or self.folder, "", sealed.read_private_key(self.private))


@pytest.fixture(scope="module")
def drill(tmp_path_factory) -> Iterator[Drill]:
    place = tmp_path_factory.mktemp("drill")
    place.chmod(0o711)
    fake = FakeStripeProcess(place)
    fake.start()
    # Payments are of yesterday, everything else of now: as if the restored platform had gone on
    # for a day before anybody looked for what was lost.
    fake.order("clock", offset_s=-30 * 3600)
    platform = Platform(homes.make(place / "home"), fake)
    folder, public, private = place / "backups", place / "public", place / "private"
    assert main(["keygen", "--public", str(public), "--private", str(private)]) == 0
    words = ["--home", str(platform.home.path), "--folder", str(folder), "--public", str(public)]
    with platform.database():
        prepared = platform.run("-m", "embedded.prepare", str(platform.home.path))
        assert prepared.returncode == 0, prepared.stderr
        stored = platform.home / "objects" / ARTIFACT
        stored.parent.mkdir(parents=True)
        stored.write_bytes(b"ciphertext")
        platform.do("buy", "early", "2500")
        follower = follow(words)
        assert main(["make", *words]) == 0
        at_backup = platform.do("tell")
        platform.do("buy", "early", "1000")
        at_moment = platform.do("tell")
        moment = datetime.now(UTC)
        platform.do("buy", "early", "4000")
        at_end = platform.do("tell")
        wait_until_sealed(folder)
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(60) == 0, follower.stderr.read()
    shutil.rmtree(platform.home.path)
    yield Drill(folder, private, fake, moment, at_backup, at_moment, at_end)
    fake.stop()


def follow(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "embedded.backup", "follow", *words, "--every-s", "2"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_until_sealed(folder: Path) -> None:
    """What was done until now is in the backup when two more segments have come."""
    count = len(list((folder / "wal").glob("*.sealed")))
    wait_until(lambda: len(list((folder / "wal").glob("*.sealed"))) >= count + 1, 60)


def restore(drill: Drill, target: Path, *words: str, folder: Path | None = None) -> Platform:
    target.parent.chmod(0o711)
    base = ["restore", "--folder", str(folder or drill.folder), "--private", str(drill.private)]
    assert main([*base, "--home", str(target), *words]) == 0
    return Platform(Home(target), drill.fake)


# --- The drill ------------------------------------------------------------------------


def test_a_moment_comes_back_and_what_followed_is_found_at_stripe(drill, tmp_path, capsys):
    platform = restore(drill, tmp_path / "home", "--until", drill.moment.isoformat())
    [restored_at] = re.findall(r"--since (\S+Z) ", capsys.readouterr().out)
    before = drill.moment - datetime.fromisoformat(restored_at)
    assert timedelta(0) <= before < timedelta(minutes=5)
    assert (platform.home / "objects" / ARTIFACT).read_bytes() == b"ciphertext"
    with platform.database():
        assert platform.do("tell") == drill.at_moment != drill.at_end
        found = platform.check()
        assert found.returncode == 1, found.stdout + found.stderr
        assert "LOST   topup missing_here" in found.stdout
        assert "Look at: reconcile." in found.stdout
        # The control: who looks at the time since only, finds nothing of yesterday.
        found = platform.check("--since", restored_at)
        assert found.returncode == 0, found.stdout + found.stderr

        found = platform.check("--repair")
        assert found.returncode == 0, found.stdout + found.stderr
        assert platform.do("tell") == drill.at_end
    assert len({drill.at_backup, drill.at_moment, drill.at_end}) == 3


def test_all_that_was_followed_comes_back(drill, tmp_path):
    platform = restore(drill, tmp_path / "home")
    with platform.database():
        assert platform.do("tell") == drill.at_end
        found = platform.check()
        assert found.returncode == 0, found.stdout + found.stderr
        assert "Everything fits together." in found.stdout
        # The control: a booking that is lost is noticed.
        platform.do("lose-a-booking")
        found = platform.check("--without-stripe")
        assert found.returncode == 1
        assert "ledger_check" in found.stdout.splitlines()[-1]


def test_a_backup_that_nothing_followed_is_of_when_it_was_made(drill, tmp_path, monkeypatch):
    tmp_path.chmod(0o711)
    monkeypatch.setattr(reading, "_recover", lambda *_: None)
    backup = drill.find()
    found = reading.restore_data(backup, tmp_path, password="unused")
    assert f"{found:%Y%m%dT%H%M%SZ}" == backup.label


def test_a_backup_is_checked_without_being_written_anywhere(drill, capsys):
    words = ["--folder", str(drill.folder), "--private", str(drill.private)]
    assert main(["check", *words]) == 0
    said = capsys.readouterr().out
    for part in ("base: ", "home: ", "without a gap", "objects: 1 files"):
        assert part in said


def test_what_is_kept_comes_back_after_a_prune(drill, tmp_path, capsys):
    """The drill's backup, as the newest of two; the other had an object and a log of its own."""
    folder = copy_of(drill, tmp_path)
    newest = drill.find(folder)
    old = Path(shutil.copytree(newest.place, folder / "20251123T094500Z"))
    changed = newest.document | {"label": old.name, "first_wal": "0" * 24}
    (old / "backup.json").write_text(json.dumps(changed))
    gone = [old, folder / "wal" / f"{'0' * 24}.sealed", folder / "objects" / "deleted-since"]
    for path in gone[1:]:
        path.write_bytes(b"old")
    before = reading.check(newest)
    assert main(["prune", "--folder", str(folder), "--keep", "1"]) == 0
    assert "1 backups, 1 segments of the log, 1 objects deleted" in capsys.readouterr().out
    assert not any(path.exists() for path in gone)
    assert reading.check(newest) == before
    platform = restore(drill, tmp_path / "home", folder=folder)
    with platform.database():
        assert platform.do("tell") == drill.at_end
        assert platform.check("--without-stripe").returncode == 0
    assert (platform.home / "objects" / ARTIFACT).read_bytes() == b"ciphertext"


# --- What is not whole ------------------------------------------------------------------


def copy_of(drill: Drill, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drill.folder, tmp_path / "copy"))


def test_a_damaged_or_missing_file_is_found(drill, tmp_path):
    folder = copy_of(drill, tmp_path)
    base = drill.find(folder).place / "base.sealed"
    whole = base.read_bytes()
    base.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(BackupError, match="not what was made"):
        reading.check(drill.find(folder))
    base.unlink()
    with pytest.raises(BackupError, match="is missing"):
        reading.check(drill.find(folder))


def test_a_gap_in_the_log_is_found(drill, tmp_path):
    folder = copy_of(drill, tmp_path)
    segments = sorted((folder / "wal").glob("*.sealed"))
    assert len(segments) >= 3
    segments[-2].unlink()
    with pytest.raises(BackupError, match="has a gap after"):
        reading.check(drill.find(folder))


def test_a_lost_object_is_found(drill, tmp_path):
    folder = copy_of(drill, tmp_path)
    (folder / "objects" / ARTIFACT).unlink()
    with pytest.raises(BackupError, match="is missing, or has less than 10 bytes"):
        reading.check(drill.find(folder))


def test_a_backup_without_a_list_counts_its_objects(drill, tmp_path):
    """Made by a version before there were lists."""
    folder = copy_of(drill, tmp_path)
    (drill.find(folder).place / "objects.json").unlink()
    assert "objects: 1 files" in reading.check(drill.find(folder))
    (folder / "objects" / ARTIFACT).unlink()
    with pytest.raises(BackupError, match="has 0 of 1 files"):
        reading.check(drill.find(folder))


@pytest.mark.parametrize("text", ["[]", "{", '{"a": "b"}', "\udcff"])
def test_a_damaged_list_of_objects_is_found(drill, tmp_path, text):
    folder = copy_of(drill, tmp_path)
    listed = drill.find(folder).place / "objects.json"
    listed.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BackupError, match=re.escape(str(listed))):
        reading.check(drill.find(folder))


def test_a_log_that_does_not_join_the_backup_is_found(drill, tmp_path):
    folder = copy_of(drill, tmp_path)
    with reading._untarring(drill.find(folder), "base") as tar:
        inside = [one.name for one in tar if reading.LOGGED.fullmatch(one.name)]
    last = max(one.rpartition("/")[2] for one in inside)
    segments = sorted((folder / "wal").glob("*.sealed"))
    # What the backup has itself may be missing in the log, the one after it may not.
    joining = [one for one in segments if one.stem[8:] <= last[8:]]
    for path in joining:
        path.unlink()
    reading.check(drill.find(folder))
    segments[len(joining)].unlink()
    assert len(segments) > len(joining) + 1
    with pytest.raises(BackupError, match=f"has a gap after 0*{int(last[16:], 16):X}$"):
        reading.check(drill.find(folder))


def test_the_plain_database_lies_nowhere_in_the_backup(drill):
    for path in (one for one in drill.folder.rglob("*") if one.is_file()):
        if path.suffix == ".sealed":
            assert b"strongroom_owner" not in path.read_bytes()
    # What was fetched and not yet sealed is all that lies there plain.
    plain = [one.name for one in (drill.folder / ".incoming").iterdir()]
    assert len(plain) <= 3, plain


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_nothing_is_ever_overwritten(drill, tmp_path, taken, capsys):
    target = tmp_path / "home"
    target.mkdir()
    if taken == "file":
        (target / "x").write_text("mine")
    else:
        (target / "postgres").mkdir()
    words = ["--folder", str(drill.folder), "--private", str(drill.private)]
    assert main(["restore", *words, "--home", str(target)]) == 2
    assert "never overwrites anything" in capsys.readouterr().err
    assert len(list(target.rglob("*"))) == 1


def test_a_moment_that_is_not_in_it_is_refused(drill, tmp_path, capsys):
    tmp_path.chmod(0o711)
    words = ["--folder", str(drill.folder), "--private", str(drill.private)]
    words += ["--home", str(tmp_path / "home"), "--until", "2039-01-01T00:00Z"]
    assert main(["restore", *words]) == 2
    assert "recovery ended before configured recovery target" in capsys.readouterr().err


def test_the_reason_is_not_that_we_were_turned_away(tmp_path):
    log = tmp_path / "restore.log"
    reason = "FATAL:  recovery ended before configured recovery target was reached"
    away = "FATAL:  the database system is shutting down"
    log.write_text(f"{away}\n{reason}\n{away}\nLOG:  database system is shut down\n")
    assert reading._why(log) == reason


def test_a_server_that_is_away_leaves_nothing_behind(drill, tmp_path, capsys, monkeypatch):
    url = f"postgresql://postgres:x@127.0.0.1:{ports.choose(set())}/postgres"
    monkeypatch.setenv("STRONGROOM_BACKUP_DATABASE_URL", url)
    public = drill.private.with_name("public")
    words = ["--folder", str(tmp_path / "backups"), "--public", str(public)]
    assert main(["make", *words]) == 2
    assert "did not come about" in capsys.readouterr().err
    assert [one.name for one in (tmp_path / "backups").iterdir()] == [".lock"]


def test_a_slot_that_nobody_needs_is_dropped(running_home, capsys):
    words = ["--home", str(running_home.path)]
    assert main(["drop-slot", *words]) == 0
    assert "There was no slot" in capsys.readouterr().out


@pytest.fixture
def running_home(tmp_path) -> Iterator[Home]:
    tmp_path.chmod(0o711)
    platform = Platform(homes.make(tmp_path / "home"), FakeStripeProcess(tmp_path))
    with platform.database() as address:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE DATABASE strongroom")
        yield platform.home
