"""Django's `migrate`, for a database that is in use (see `marketplace.services.migration`)."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import migrate
from django.db import OperationalError, connection
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from psycopg.errors import DeadlockDetected, LockNotAvailable

from marketplace.services import migration as guard
from marketplace.services.migration import MigrationRefusedError, MigratorBusyError

# So many rows are looked at in a moment, by all that locks them.
ROWS_MAX_DEFAULT = 100_000
# What waits behind a lock that is asked for waits this long too.
LOCK_TIMEOUT_MS_DEFAULT = 2_000
# With pauses that grow to `_PAUSE_S_MAX`: four minutes or so.
ATTEMPTS_DEFAULT = 12
WAIT_S_DEFAULT = 600.0
_PAUSE_S_MAX = 30.0


class Command(migrate.Command):
    help = (
        "Migrate a database that is in use: one process at a time, never waiting long for a lock,"
        " and not if a large table would be locked."
    )
    # Whether another process may be at work; False for a database that is made just now.
    _is_guarded = False
    _rows_max = ROWS_MAX_DEFAULT
    _timeout_ms = LOCK_TIMEOUT_MS_DEFAULT

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        group = parser.add_argument_group("a database that is in use")
        group.add_argument(
            "--rows-max",
            type=int,
            default=ROWS_MAX_DEFAULT,
            help="a table with more is not locked for a look at its rows (%(default)s)",
        )
        group.add_argument(
            "--allow-locks",
            action="store_true",
            help="lock large tables all the same, while nobody needs them",
        )
        group.add_argument(
            "--lock-timeout-ms",
            type=int,
            default=LOCK_TIMEOUT_MS_DEFAULT,
            help="how long to wait for a lock before letting others pass (%(default)s)",
        )
        group.add_argument(
            "--attempts",
            type=int,
            default=ATTEMPTS_DEFAULT,
            help="how often to try for a lock (%(default)s)",
        )
        group.add_argument(
            "--wait-s",
            type=float,
            default=WAIT_S_DEFAULT,
            help="how long to wait for another process that migrates (%(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["plan"]:
            super().handle(*args, **options)
            self._show_locks()
            return
        if options["check_unapplied"] or options["prune"]:
            super().handle(*args, **options)
            return
        self._rows_max, self._timeout_ms = options["rows_max"], options["lock_timeout_ms"]
        try:
            with guard.alone(options["wait_s"]):
                self._migrate(*args, **options)
        except (MigrationRefusedError, MigratorBusyError) as error:
            raise CommandError(str(error)) from error

    def _migrate(self, *args: Any, **options: Any) -> None:
        guard.refuse_newer()
        self._migrate_guarded(*args, **options)
        guard.note_number()

    def _migrate_guarded(self, *args: Any, **options: Any) -> None:
        loader, pending = guard.list_pending()
        self._is_guarded = bool(pending) and not options["fake"] and not options["allow_locks"]
        if self._is_guarded:
            self._refuse_early(loader, pending)
        try:
            for attempt in range(1, options["attempts"] + 1):
                guard.set_lock_timeout(self._timeout_ms)
                try:
                    super().handle(*args, **options)
                except OperationalError as error:
                    self._wait_or_raise(error, attempt, options["attempts"])
                else:
                    return
        finally:
            guard.reset_lock_timeout()

    def _refuse_early(self, loader: MigrationLoader, pending: list[Migration]) -> None:
        """Before anything is changed, as far as it can be known by then."""
        for one in pending:
            try:
                changes = guard.read_changes(loader, one)
            except ValueError:
                # It builds on what an earlier one makes; it is read again when its turn comes.
                return
            guard.refuse_locks(one, changes, self._rows_max)

    def migration_progress_callback(
        self, action: str, migration: Migration | None = None, fake: bool = False
    ) -> None:
        """Called by Django before each migration, when all before it are applied."""
        if action == "apply_start" and migration is not None and self._is_guarded:
            self._prepare(migration)
        super().migration_progress_callback(action, migration, fake)

    def _prepare(self, migration: Migration) -> None:
        changes = guard.read_changes(guard.MigrationLoader(connection), migration)
        guard.refuse_locks(migration, changes, self._rows_max)
        if not migration.atomic:
            guard.drop_broken_indexes(changes)
        guard.set_lock_timeout(guard.lock_timeout_ms(changes, self._timeout_ms))

    def _wait_or_raise(self, error: OperationalError, attempt: int, attempts: int) -> None:
        if not isinstance(error.__cause__, LockNotAvailable | DeadlockDetected):
            raise error
        if attempt == attempts:
            detail = f"a lock was not to be had in {attempts} attempts: {error}".strip()
            raise CommandError(f"{detail}; what was applied before stays, run it again") from error
        pause_s = min(2.0 ** (attempt - 1), _PAUSE_S_MAX)
        self.stdout.write(f" waits for a lock; attempt {attempt + 1} in {pause_s:.0f} s")
        time.sleep(pause_s)

    def _show_locks(self) -> None:
        loader, pending = guard.list_pending()
        if pending:
            self.stdout.write("Locks:", self.style.MIGRATE_LABEL)
        for one in pending:
            self.stdout.write(str(one), self.style.MIGRATE_HEADING)
            try:
                changes = guard.read_changes(loader, one)
            except ValueError as error:
                self.stdout.write(f"    not to be read before those above it: {error}")
                continue
            for change in changes:
                if change.lock:
                    what = f"{change.lock} {change.table}".strip()
                    marks = " ".join(change.codes)
                    self.stdout.write(f"    {what}: {change.statement[:80]} {marks}".rstrip())
