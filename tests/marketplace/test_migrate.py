"""`manage.py migrate` on a database in use: with other sessions, large tables, broken tries."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from marketplace.management.commands import migrate
from marketplace.services import migration as guard

pytestmark = pytest.mark.django_db(transaction=True)
# An app that has no migrations of its own.
APP = "messages"
MODULE = "made_up_migrations"
ROWS_MAX = 20
TABLE = "CREATE TABLE shelf (id integer, book text)"
COLUMN = "ALTER TABLE shelf ADD COLUMN price integer NULL"
INDEX = "CREATE INDEX shelf_book ON shelf (book)"
PATIENT = "CREATE INDEX CONCURRENTLY shelf_book ON shelf (book)"
Shelf = Callable[..., None]


@pytest.fixture
def shelf(tmp_path, monkeypatch, settings) -> Iterator[Shelf]:
    """Write one more migration, of one statement."""
    package = tmp_path / MODULE
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    settings.MIGRATION_MODULES = {APP: MODULE}
    names: list[str] = []

    def write(statement: str, *, atomic: bool = True, accepted: str = "{}") -> None:
        name = f"{len(names) + 1:04}_made_up"
        before = [(APP, names[-1])] if names else []
        (package / f"{name}.py").write_text(
            "from django.db import migrations\n"
            "class Migration(migrations.Migration):\n"
            f"    atomic, accepted, dependencies = {atomic}, {accepted}, {before}\n"
            f"    operations = [migrations.RunSQL({statement!r}, migrations.RunSQL.noop)]\n"
        )
        names.append(name)
        importlib.invalidate_caches()

    yield write
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS shelf")
    MigrationRecorder(connection).migration_qs.filter(app=APP).delete()
    for name in [name for name in sys.modules if name.startswith(MODULE)]:
        del sys.modules[name]


@pytest.fixture
def other(database_urls) -> Iterator[psycopg.Connection]:
    """Another session of the owner."""
    with psycopg.connect(database_urls["owner"]) as session:
        yield session
        session.rollback()


def run(*words: str) -> str:
    out = StringIO()
    call_command("migrate", *words, f"--rows-max={ROWS_MAX}", stdout=out, no_color=True)
    return out.getvalue()


def ask(query: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def list_applied() -> list[str]:
    applied = MigrationRecorder(connection).migration_qs.filter(app=APP)
    return [name[:4] for name in applied.values_list("name", flat=True).order_by("name")]


def fill(count: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shelf SELECT n, 'a' FROM generate_series(1, %s) AS n", [count])


def test_a_large_table_is_not_locked_and_nothing_is_begun(shelf):
    shelf(TABLE)
    run()
    fill(ROWS_MAX + 1)
    shelf(COLUMN)
    shelf(INDEX)

    with pytest.raises(CommandError) as refusal:
        run()

    assert f"{APP}.0003_made_up would lock what has more than {ROWS_MAX} rows" in str(refusal.value)
    assert "index_blocks_writes shelf: CREATE INDEX" in str(refusal.value)
    assert "use AddIndexConcurrently" in str(refusal.value)
    assert list_applied() == ["0001"]
    # Nobody needs it now.
    run("--allow-locks")
    assert list_applied() == ["0001", "0002", "0003"]


def test_a_table_at_the_limit_is_small(shelf):
    shelf(TABLE)
    run()
    fill(ROWS_MAX)
    shelf(INDEX)
    run()
    assert list_applied() == ["0001", "0002"]


def test_what_a_migration_accepts_with_a_reason_is_done(shelf):
    shelf(TABLE)
    run()
    fill(ROWS_MAX + 1)
    shelf(INDEX, accepted="{'index_blocks_writes': 'nobody writes to it'}")
    run()
    assert list_applied() == ["0001", "0002"]


def test_a_table_that_an_earlier_one_filled_is_looked_at_in_its_turn(shelf):
    shelf("CREATE TABLE shelf AS SELECT n AS id, 'a' AS book FROM generate_series(1, 99) AS n")
    shelf(INDEX)
    with pytest.raises(CommandError, match="0002_made_up would lock"):
        run()
    assert list_applied() == ["0001"]


def test_a_lock_is_not_waited_for_while_others_wait_behind(shelf, other, monkeypatch):
    monkeypatch.setattr(migrate, "_PAUSE_S_MAX", 0.01)
    shelf(TABLE)
    run()
    shelf(COLUMN)
    other.execute("SELECT * FROM shelf")

    with pytest.raises(CommandError, match="a lock was not to be had in 3 attempts"):
        run("--lock-timeout-ms=50", "--attempts=3")
    assert list_applied() == ["0001"]
    assert ask("SHOW lock_timeout") == [("0",)]

    # The pauses let the other session end; the third attempt is the one.
    monkeypatch.setattr(migrate.time, "sleep", lambda _s: other.rollback())
    assert "waits for a lock; attempt 2" in run("--lock-timeout-ms=50", "--attempts=2")
    assert list_applied() == ["0001", "0002"]


def test_an_index_is_made_beside_a_long_transaction(shelf, database_urls):
    shelf(TABLE)
    run()
    shelf(PATIENT, atomic=False)

    def read_for_a_while() -> None:
        with psycopg.connect(database_urls["owner"]) as session:
            session.execute("SELECT * FROM shelf")
            begun.set()
            time.sleep(0.4)

    begun = threading.Event()
    thread = threading.Thread(target=read_for_a_while)
    thread.start()
    begun.wait(10)
    run("--lock-timeout-ms=50", "--attempts=1")
    thread.join()
    assert ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'shelf_book'::regclass") == [
        (True,)
    ]


def test_an_index_that_was_left_broken_is_made_anew(shelf, other):
    shelf(TABLE)
    run()
    fill(2)
    other.autocommit = True
    with pytest.raises(psycopg.errors.UniqueViolation):
        other.execute("CREATE UNIQUE INDEX CONCURRENTLY shelf_book ON shelf (book)")
    shelf(PATIENT, atomic=False)
    run()
    assert ask(
        "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'shelf_book'::regclass"
    ) == [(True, False)]


def test_two_do_not_migrate_at_once(shelf, other):
    shelf(TABLE)
    other.execute(f"SELECT pg_advisory_lock({guard.LOCK_KEY})")
    with pytest.raises(CommandError, match="another process still migrates after 0 s"):
        run("--wait-s=0")
    assert list_applied() == []

    other.execute(f"SELECT pg_advisory_unlock({guard.LOCK_KEY})")
    run("--wait-s=0")
    assert list_applied() == ["0001"]
    # It is given back, also by one that was refused.
    assert other.execute(f"SELECT pg_try_advisory_lock({guard.LOCK_KEY})").fetchone() == (True,)


def test_the_plan_shows_locks_and_does_nothing(shelf):
    shelf(TABLE)
    run()
    shelf(COLUMN)
    shelf(INDEX)
    shelf(PATIENT.replace("shelf_book", "shelf_other"), atomic=False)

    shown = run("--plan").partition("Locks:")[2]

    assert "ACCESS EXCLUSIVE shelf: ALTER TABLE shelf ADD COLUMN price" in shown
    assert "    SHARE shelf: CREATE INDEX shelf_book ON shelf (book) index_blocks_writes" in shown
    assert "SHARE UPDATE EXCLUSIVE shelf: CREATE INDEX CONCURRENTLY" in shown
    assert list_applied() == ["0001"]


def test_the_whole_schema_is_up_to_date_after_it():
    assert "No migrations to apply" in run()
