"""Migrate a database that is in use: one at a time, with no long lock, and with its number noted.

See `marketplace.core.schema_change` for what is bad, and `docs/upgrades.md` for what to do instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from marketplace.core import schema, schema_change
from marketplace.core.schema_change import SHARE_UPDATE_EXCLUSIVE, Change, Finding

# Any number will do, if nobody else takes it: the letters "migr".
LOCK_KEY = 0x6D696772
_BUSY_PAUSE_S = 0.5
_TABLE = "marketplace_schemanumber"


class MigrationRefusedError(Exception):
    """A large table would be locked, or the schema is not one for this code."""


class MigratorBusyError(Exception):
    """Another process migrates this database."""


@contextmanager
def alone(wait_s: float) -> Iterator[None]:
    """Hold the lock of whoever migrates this database.

    It is tried for, not waited for inside Postgres: a session that waits there keeps a snapshot,
    and the other one's CREATE INDEX CONCURRENTLY would wait for that.

    Raises:
        MigratorBusyError: Another still migrates after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    while not _ask(f"SELECT pg_try_advisory_lock({LOCK_KEY})"):
        if time.monotonic() >= deadline:
            raise MigratorBusyError(f"another process still migrates after {wait_s:g} s")
        time.sleep(_BUSY_PAUSE_S)
    try:
        yield
    finally:
        _release()


def _release() -> None:
    # A connection that broke, or whose transaction failed, holds nothing for long.
    with suppress(DatabaseError, InterfaceError):
        _ask(f"SELECT pg_advisory_unlock({LOCK_KEY})")


def _ask(query: str, parameters: Sequence[str | int | list[str]] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        row = cursor.fetchone()
    return row[0] if row else None


def read_changes(loader: MigrationLoader, migration: Migration) -> list[Change]:
    """What a migration does to the database as it is just before.

    Raises:
        ValueError: It builds on a constraint that another pending migration makes.
    """
    scripts = loader.collect_sql([(migration, False)])
    return schema_change.read(["\n".join(scripts)], is_atomic=migration.atomic)


def find_locks(changes: Sequence[Change], accepted: dict[str, str], rows_max: int) -> list[Finding]:
    """The findings that keep more than `rows_max` rows from being read or written."""
    return [
        finding
        for finding in schema_change.find(changes)
        if finding.depends_on_size
        and finding.code not in accepted
        and has_more_rows(finding.table, rows_max)
    ]


def has_more_rows(table: str, rows_max: int) -> bool:
    """Whether a table is there and holds more rows than so many; counts no further."""
    if not table or _ask("SELECT to_regclass(%s)", [table]) is None:
        return False
    quoted = ".".join(connection.ops.quote_name(part) for part in table.split("."))
    query = f"SELECT count(*) FROM (SELECT FROM {quoted} LIMIT %s) AS seen"  # noqa: S608
    count = _ask(query, [rows_max + 1])
    return isinstance(count, int) and count > rows_max


def refuse_locks(migration: Migration, changes: Sequence[Change], rows_max: int) -> None:
    """Raise MigrationRefusedError if a large table would be locked by a migration."""
    found = find_locks(changes, getattr(migration, "accepted", {}), rows_max)
    if found:
        lines = "".join(f"\n  {one}" for one in found)
        detail = f"{migration} would lock what has more than {rows_max} rows:{lines}"
        raise MigrationRefusedError(detail)


def lock_timeout_ms(changes: Sequence[Change], default_ms: int) -> int:
    """How long a migration's statements may wait for a lock; 0 for as long as it takes.

    Who waits for a strong lock keeps everybody who comes later waiting behind it. Building an
    index CONCURRENTLY waits too, but nobody waits for it.
    """
    is_patient = all(change.lock in ("", SHARE_UPDATE_EXCLUSIVE) for change in changes)
    has_lock = any(change.lock for change in changes)
    return 0 if is_patient and has_lock else default_ms


def set_lock_timeout(timeout_ms: int) -> None:
    """For this session, until it is set again."""
    _execute(f"SET lock_timeout = {int(timeout_ms)}")


def reset_lock_timeout() -> None:
    """As the server has it; a connection that is lost takes its own with it."""
    with suppress(DatabaseError, InterfaceError):
        _execute("RESET lock_timeout")


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def drop_broken_indexes(changes: Sequence[Change]) -> list[str]:
    """Remove what an earlier try of a migration left of its indexes; returns their names.

    An index whose building was cut off stays there, is of no use and keeps its name taken.
    """
    pattern = r'CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?"?([\w.]+)"? ON'
    found = (re.match(pattern, change.statement, re.IGNORECASE) for change in changes)
    names = [match[1] for match in found if match]
    broken = [name for name in names if _ask(_IS_BROKEN, [name])]
    for name in broken:
        _execute(f"DROP INDEX CONCURRENTLY {connection.ops.quote_name(name)}")
    return broken


_IS_BROKEN = """
    SELECT true FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relname = %s AND NOT indisvalid
"""


def list_pending() -> tuple[MigrationLoader, list[Migration]]:
    """What is still to be applied, in order; nothing for a database that is new."""
    executor = MigrationExecutor(connection)
    if not executor.loader.applied_migrations:
        return executor.loader, []
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return executor.loader, [migration for migration, _ in plan]


def is_whole() -> bool:
    """Whether every migration of this code is applied."""
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes())


def read_number() -> schema.SchemaNumber:
    """What the schema says of itself."""
    if _ask("SELECT to_regclass(%s)", [_TABLE]) is None:
        return schema.SchemaNumber(0, 0)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT number, code_number_min FROM {_TABLE}")  # noqa: S608
        return schema.SchemaNumber(*cursor.fetchone())


def refuse_newer() -> None:
    """Raise MigrationRefusedError if the schema no longer takes this code."""
    found = read_number()
    if schema.judge(found) is schema.Fit.TOO_NEW:
        raise MigrationRefusedError(schema.describe(found))


def note_number() -> None:
    """Note what the schema is now. Nothing makes the numbers smaller but taking migrations back.

    Old code that is rolled back to migrates nothing, and must not say that the schema is its own.
    """
    if _ask("SELECT to_regclass(%s)", [_TABLE]) is None:
        return
    if is_whole():
        number, minimum = schema.CODE_NUMBER, schema.CODE_NUMBER_MIN
        _execute(f"""
            UPDATE {_TABLE} SET changed_at = now(), number = GREATEST(number, {number}),
                code_number_min = GREATEST(code_number_min, {minimum})
            WHERE number < {number} OR code_number_min < {minimum}
        """)  # noqa: S608
    else:
        below = schema.CODE_NUMBER - 1
        _execute(f"""
            UPDATE {_TABLE} SET changed_at = now(), number = {below},
                code_number_min = LEAST(code_number_min, {below})
            WHERE number = {schema.CODE_NUMBER}
        """)  # noqa: S608
