"""New migrations are ones that the last release's processes can live with."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.contrib.postgres.functions import RandomUUID
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently
from django.core.management import CommandError, call_command
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from marketplace.core import schema
from tests.deploy import migration_rules
from tests.deploy.migration_rules import collect_sql, find_faults

# What a new migration may do all the same, and why.
ALLOWED = {
    # Its tables have a row for each node: they are locked for no time.
    ("inference", "0024_pools"): {"CREATE_INDEX", "CREATE_INDEX_EXCLUSIVE", "ADD_CONSTRAINT"}
    | {"index_blocks_writes", "constraint_checks_rows"},
}
NUMBER = schema.CODE_NUMBER
NOTHING = migrations.RunSQL.noop


def test_what_was_released_is_never_changed():
    assert (
        migration_rules.find_edits(migration_rules.read_released(), migration_rules.list_files())
        == []
    )


def test_a_change_of_it_is_seen():
    released = migration_rules.read_released()
    path = "inference/sql/jobs.sql"
    assert migration_rules.find_edits(released, released | {path: "0" * 64})
    gone = {name: digest for name, digest in released.items() if name != path}
    assert migration_rules.find_edits(released, gone) == [f"{path}: is gone; write a new migration"]


def test_new_migrations_keep_the_rules(db):
    loader = MigrationLoader(connection)
    released, now = migration_rules.read_released(), migration_rules.list_files()
    for key in migration_rules.list_new_migrations(released, now):
        before = loader.graph.node_map[key].parents
        state = loader.project_state([parent.key for parent in before])
        faults = find_faults(collect_sql(loader.get_migration(*key), state))
        assert faults <= ALLOWED.get(key, set()), key


def test_code_with_new_migrations_has_the_next_number():
    released = migration_rules.read_released()
    new = migration_rules.list_new_migrations(released, migration_rules.list_files())
    released_number = int(migration_rules.RELEASED_NUMBER.read_text())

    assert migration_rules.expect_number(released_number, new) == schema.CODE_NUMBER
    # The controls: one without any keeps its number, and one with some must not.
    assert migration_rules.expect_number(7, []) == 7
    assert migration_rules.expect_number(7, [("billing", "0001_new")]) == 8
    assert schema.CODE_NUMBER_MIN <= schema.CODE_NUMBER


def lint(operation: Any, *, atomic: bool = True) -> set[str]:
    """Faults of a migration of one operation, after all that there are."""
    loader = MigrationLoader(connection)
    migration = migrations.Migration("made_up", "inference")
    migration.operations, migration.atomic = [operation], atomic
    return find_faults(collect_sql(migration, loader.project_state()))


TEXT = {"max_length": 9, "default": "x"}
RANDOM = {"db_default": RandomUUID()}
INDEX = models.Index(fields=["created_at"], name="made_up")
CHECK = models.CheckConstraint(condition=models.Q(created_at=None), name="made_up")


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (migrations.AddField("job", "made_up", models.CharField(**TEXT)), "NOT_NULL"),
        (migrations.RemoveField("job", "deadline_at"), "DROP_COLUMN"),
        (migrations.RenameField("job", "deadline_at", "ends_at"), "RENAME_COLUMN"),
        (migrations.AlterField("node", "name", models.TextField()), "ALTER_COLUMN"),
        (migrations.DeleteModel("LeaseChallenge"), "DROP_TABLE"),
        (migrations.RenameModel("Lease", "KeyLease"), "RENAME_TABLE"),
        (migrations.AddIndex("prediction", INDEX), "CREATE_INDEX"),
        (migrations.AddConstraint("prediction", CHECK), "ADD_CONSTRAINT"),
        (migrations.RunSQL("DROP FUNCTION inference_reap()", NOTHING), "DROP_FUNCTION"),
        (migrations.RunSQL("UPDATE billing_usageevent SET id = id", NOTHING), "LONG_UPDATE"),
        (migrations.RunSQL("DO $$ BEGIN PERFORM 1; END $$", NOTHING), "cannot_be_read"),
        (migrations.RunSQL("SELECT billing_fill()", NOTHING), "cannot_be_read"),
        (migrations.AddField("job", "made_up", models.UUIDField(**RANDOM)), "volatile_default"),
        (migrations.RunPython(lambda _apps, _editor: None), "LOCK_TABLE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_is_seen_to_be_broken(db, operation, code):
    assert code in lint(operation)


@pytest.mark.parametrize(
    ("operation", "atomic"),
    [
        (migrations.AddField("job", "new", models.CharField(**TEXT, db_default="x")), True),
        (migrations.AddField("job", "new", models.TextField(null=True)), True),
        (AddIndexConcurrently("prediction", INDEX), False),
        (AddConstraintNotValid("prediction", CHECK), True),
        (migrations.RunSQL("CREATE OR REPLACE FUNCTION f() RETURNS int", NOTHING), True),
    ],
)
def test_what_the_documents_advise_is_fine(transactional_db, operation, atomic):
    assert lint(operation, atomic=atomic) == set()


# --- Whether the schema is there ----------------------------------------------------


def check(*words: str) -> str:
    out = StringIO()
    call_command("check_schema", *words, stdout=out)
    return out.getvalue()


def test_the_schema_of_this_code_is_fine(db):
    assert "the schema is that of this code" in check()


def test_a_newer_schema_is_fine_for_older_code(db):
    MigrationRecorder(connection).record_applied("inference", "9999_of_the_next_release")
    assert "newer than this code, by 1 migrations" in check()


def test_an_older_schema_is_waited_for_and_then_refused(db):
    MigrationRecorder(connection).record_unapplied("inference", "0024_pools")
    with pytest.raises(CommandError, match=r"inference\.0024_pools was not carried out"):
        check("--wait-s", "0")
    # Whoever migrates meanwhile ends the wait.
    MigrationRecorder(connection).record_applied("inference", "0024_pools")
    assert "waiting" not in check("--wait-s", "0")


def test_code_that_the_schema_no_longer_takes_is_refused_at_once(db):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE marketplace_schemanumber SET code_number_min = 99, number = 99")
    with pytest.raises(CommandError, match=f"number 99 .* 99 or more, this code has {NUMBER}"):
        check("--wait-s", "600")


def test_a_database_that_is_away_is_refused(db, monkeypatch):
    from django.db import OperationalError

    from marketplace.management.commands import check_schema

    def fail() -> None:
        raise OperationalError("connection refused\nhint")

    monkeypatch.setattr(check_schema, "read_schema_state", fail)
    monkeypatch.setattr(check_schema.connection, "close", lambda: None)
    with pytest.raises(CommandError, match="does not answer: connection refused"):
        check("--wait-s", "0")
