"""`bin/backup`: make, follow, check, prune and restore. Exit codes: 0, 1 not whole, 2 could not."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from embedded.backup import following, making, pruning, reading, sealed
from embedded.backup.reading import Backup
from embedded.backup.sealed import BackupError
from embedded.errors import StartError
from embedded.home import Home

DATABASE_VARIABLE = "STRONGROOM_BACKUP_DATABASE_URL"
PASSWORD_VARIABLE = "STRONGROOM_BACKUP_PASSWORD"  # noqa: S105


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one thing; what is wrong is said in a line."""
    options = _parse(arguments)
    try:
        code: int = options.run(options)
    except StartError as error:
        print(f"bin/backup: {error}", file=sys.stderr)
        return 1 if options.run is _check else 2
    return code


def _keygen(options: argparse.Namespace) -> int:
    kid = sealed.make_keys(options.public, options.private)
    print(f"Key {kid}. Keep {options.private} away from every machine that makes backups:")
    print("without it no backup can be read, and with it all of them.")
    return 0


def _make(options: argparse.Namespace) -> int:
    home = Home(options.home.absolute()) if options.home else None
    key = sealed.read_public_key(options.public)
    place = making.make(options.folder, url=_url(home), public_key=key, home=home)
    print(place)
    return 0


def _follow(options: argparse.Namespace) -> int:
    home = Home(options.home.absolute()) if options.home else None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    key = sealed.read_public_key(options.public)
    following.follow(
        options.folder,
        url=_url(home),
        public_key=key,
        switch_every_s=options.every_s,
        stop=stop,
    )
    return 0


def _drop_slot(options: argparse.Namespace) -> int:
    home = Home(options.home.absolute()) if options.home else None
    was_there = following.drop_slot(_url(home))
    print("The server keeps no log for backups any more." if was_there else "There was no slot.")
    return 0


def _check(options: argparse.Namespace) -> int:
    for line in reading.check(_find(options)):
        print(line)
    return 0


def _prune(options: argparse.Namespace) -> int:
    plan = pruning.prune(options.folder, keep=options.keep, dry_run=options.dry_run)
    for place in plan.backups:
        print(place.name)
    for place in plan.unknown:
        print(f"left alone: {place.name} is no backup that this program knows;")
        print("  the log and the ciphertext stay as they are for it")
    for place in plan.without_list:
        print(f"{place.name} does not say which ciphertext is its own: all of it stays")
    done = "would be deleted" if options.dry_run else "deleted"
    counts = f"{len(plan.backups)} backups, {len(plan.segments)} segments of the log"
    print(f"{counts}, {len(plan.objects)} objects {done}: {plan.freed_bytes:,} bytes")
    print(f"{len(plan.kept)} kept, the oldest is {plan.kept[0].name}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    backup = _find(options)
    until = reading.read_moment(options.until) if options.until else None
    if options.home:
        last = reading.restore(backup, Home(options.home.absolute()), until=until)
        print(f"Restored. The last change in it is of {last:%F %T} UTC.")
        print(f"Start it with bin/up --home {options.home} and look what it does not know:")
        print(f"manage.py check_restored --since {_say(last)} --home {options.home}")
    else:
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if not password:
            raise BackupError(f"{PASSWORD_VARIABLE} must hold the superuser's password")
        options.data.mkdir(mode=0o711, parents=True, exist_ok=True)
        data = options.data.absolute()
        last = reading.restore_data(backup, data, password=password, until=until)
        print(f"Restored into {data / 'data'}. The last change in it is of {last:%F %T} UTC.")
        print("Start Postgres and look what it does not know:")
        print(f"manage.py check_restored --since {_say(last)}")
    return 0


def _say(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _url(home: Home | None) -> str:
    if home is not None:
        return making.database_url(home)
    url = os.environ.get(DATABASE_VARIABLE, "")
    if not url:
        raise BackupError(f"give a --home, or set {DATABASE_VARIABLE}")
    return url


def _find(options: argparse.Namespace) -> Backup:
    key = sealed.read_private_key(options.private)
    return Backup.find(options.folder, options.label, key)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/backup", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    keygen = commands.add_parser("keygen", help="make the key pair of the backups")
    keygen.add_argument("--public", type=Path, required=True, help="for the machines")
    keygen.add_argument("--private", type=Path, required=True, help="for the safe")
    keygen.set_defaults(run=_keygen)

    for name, run, words in (
        ("make", _make, "back up the whole database, and a home"),
        ("follow", _follow, "fetch the log of changes until told to stop"),
        ("drop-slot", _drop_slot, "let the server forget that anybody follows"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--home", type=Path, help=f"of bin/up; else {DATABASE_VARIABLE}")
        if name != "drop-slot":
            command.add_argument("--folder", type=Path, required=True, help="of all backups")
            command.add_argument("--public", type=Path, required=True, help="the public key")
        command.set_defaults(run=run)
        if name == "follow":
            lost = "at most so much is lost with the server (%(default)s s)"
            command.add_argument("--every-s", type=float, default=60.0, help=lost)

    prune = commands.add_parser("prune", help="delete old backups, and what only they needed")
    prune.add_argument("--folder", type=Path, required=True, help="of all backups")
    prune.add_argument("--keep", type=int, required=True, help="so many, the newest; at least 1")
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    prune.set_defaults(run=_prune)

    for name, run, words in (
        ("check", _check, "open everything, write nothing; exits 1 if it is not whole"),
        ("restore", _restore, "into a place that is empty"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--folder", type=Path, required=True, help="of all backups")
        command.add_argument("--private", type=Path, required=True, help="the private key")
        command.add_argument("--label", default="", help="of one backup; the newest")
        command.set_defaults(run=run)
        if name == "restore":
            place = command.add_mutually_exclusive_group(required=True)
            place.add_argument("--home", type=Path, help="a new home for bin/up")
            place.add_argument("--data", type=Path, help="a folder for Postgres' data alone")
            command.add_argument("--until", default="", help="a moment, such as 2026-11-23T09:45Z")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
