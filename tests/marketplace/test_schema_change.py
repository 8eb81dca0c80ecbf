"""What a migration's statements do to tables in use is read from their text."""

from __future__ import annotations

import pytest

from marketplace.core import schema_change

READ = {
    "nullable": ("ALTER TABLE big ADD COLUMN a integer NULL", []),
    "constant": ("ALTER TABLE big ADD COLUMN a varchar(9) DEFAULT 'x' NOT NULL", []),
    "stable": ("ALTER TABLE big ADD COLUMN a timestamptz DEFAULT now() NOT NULL", []),
    "volatile": (
        "ALTER TABLE big ADD COLUMN a uuid DEFAULT gen_random_uuid() NOT NULL",
        ["volatile_default"],
    ),
    "clock": (
        "ALTER TABLE big ADD COLUMN a timestamptz DEFAULT clock_timestamp()",
        ["volatile_default"],
    ),
    "generated": (
        "ALTER TABLE big ADD COLUMN a int GENERATED ALWAYS AS (b + 1) STORED",
        ["rewrites_table"],
    ),
    "serial": ("ALTER TABLE big ADD COLUMN a bigserial", ["rewrites_table"]),
    "not null": ("ALTER TABLE big ADD COLUMN a integer NOT NULL", ["not_null_without_default"]),
    "lost default": (
        (
            'ALTER TABLE "big" ADD COLUMN "a" integer DEFAULT 0 NOT NULL;'
            'ALTER TABLE "big" ALTER COLUMN "a" DROP DEFAULT'
        ),
        ["not_null_without_default"],
    ),
    "lost default of a nullable one": (
        (
            "ALTER TABLE big ADD COLUMN a integer DEFAULT 0;"
            "ALTER TABLE big ALTER COLUMN a DROP DEFAULT"
        ),
        [],
    ),
    "check beside it": (
        "ALTER TABLE big ADD COLUMN a integer DEFAULT 0 NOT NULL CHECK (a >= 0)",
        ["constraint_checks_rows"],
    ),
    "reference beside it": (
        "ALTER TABLE big ADD COLUMN a uuid NULL CONSTRAINT c REFERENCES other (id)",
        ["constraint_checks_rows"],
    ),
    "unique beside it": ("ALTER TABLE big ADD a uuid UNIQUE", ["index_blocks_writes"]),
    "index": ("CREATE INDEX i ON big (a)", ["index_blocks_writes"]),
    "unique index": ('CREATE UNIQUE INDEX "i" ON "big" ("a", "b")', ["index_blocks_writes"]),
    "concurrently in a transaction": (
        "CREATE INDEX CONCURRENTLY i ON big (a)",
        ["index_in_transaction"],
    ),
    "lost index in a transaction": ("DROP INDEX CONCURRENTLY i", ["index_in_transaction"]),
    "type": ("ALTER TABLE big ALTER COLUMN a TYPE bigint USING a::bigint", ["type_change"]),
    "set not null": ("ALTER TABLE big ALTER COLUMN a SET NOT NULL", ["set_not_null"]),
    "check": (
        "ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0)",
        ["constraint_checks_rows"],
    ),
    "check later": ("ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0) NOT VALID", []),
    "validated at once": (
        (
            "ALTER TABLE big ADD CONSTRAINT c CHECK (a > 0) NOT VALID;"
            "ALTER TABLE big VALIDATE CONSTRAINT c"
        ),
        ["validates_in_same_transaction"],
    ),
    "validated later": ("ALTER TABLE big VALIDATE CONSTRAINT c", []),
    "foreign key": (
        "ALTER TABLE big ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES other (id)",
        ["constraint_checks_rows"],
    ),
    "unique": ("ALTER TABLE big ADD CONSTRAINT c UNIQUE (a)", ["index_blocks_writes"]),
    "unique of an index": ("ALTER TABLE big ADD CONSTRAINT c UNIQUE USING INDEX i", []),
    "exclude": (
        "ALTER TABLE big ADD CONSTRAINT c EXCLUDE USING gist (a WITH &&)",
        ["index_blocks_writes"],
    ),
    "column goes": ("ALTER TABLE big DROP COLUMN a CASCADE", ["taken_away"]),
    "column renamed": ("ALTER TABLE big RENAME COLUMN a TO b", ["taken_away"]),
    "table renamed": ("ALTER TABLE big RENAME TO bigger", ["taken_away"]),
    "table goes": ("DROP TABLE big", ["taken_away"]),
    "function goes": ("DROP FUNCTION f(uuid)", ["taken_away"]),
    "function": ("CREATE OR REPLACE FUNCTION f() RETURNS void AS $$ DROP TABLE x; $$", []),
    "rows": ("UPDATE big SET a = 1", ["writes_rows"]),
    "rows copied": ("INSERT INTO big (a) SELECT a FROM other", ["writes_rows"]),
    "one row": ("INSERT INTO big (a) VALUES (1)", []),
    "rows forgotten": ("DELETE FROM big WHERE a", ["writes_rows"]),
    "emptied": ("TRUNCATE big", ["taken_away"]),
    "unlogged": ("ALTER TABLE big SET UNLOGGED", ["rewrites_table"]),
    "locked": ("LOCK TABLE big IN ACCESS EXCLUSIVE MODE", ["rewrites_table"]),
    "block": ("DO $$ BEGIN PERFORM 1; END $$", ["cannot_be_read"]),
    "called": ("SELECT change_all_rows()", ["cannot_be_read"]),
    "common table": ("WITH a AS (SELECT 1) UPDATE big SET a = 1", ["cannot_be_read"]),
    "unknown action": ("ALTER TABLE big INHERIT other", ["cannot_be_read"]),
    "python": (f"{schema_change.PYTHON_MARK}\n", ["runs_python"]),
    "two actions": (
        'ALTER TABLE "big" ADD COLUMN "a" numeric(3, 1) NULL, DROP COLUMN "b"',
        ["taken_away"],
    ),
}


@pytest.mark.parametrize(("text", "codes"), READ.values(), ids=READ)
def test_what_a_statement_does_is_read(text, codes):
    changes = schema_change.read([text])

    assert [finding.code for finding in schema_change.find(changes)] == codes


def test_every_code_has_its_advice_and_a_case():
    assert {code for _, codes in READ.values() for code in codes} == set(schema_change.ADVICE)


def test_outside_of_a_transaction_an_index_may_be_made_beside_the_writers():
    [change] = schema_change.read(["CREATE INDEX CONCURRENTLY i ON big (a)"], is_atomic=False)

    assert (change.table, change.lock, change.codes) == ("big", "SHARE UPDATE EXCLUSIVE", ())


def test_a_table_that_is_new_has_no_users():
    made = (
        "CREATE TABLE new (id uuid PRIMARY KEY); CREATE INDEX i ON new (id); UPDATE new SET a = 1"
    )

    assert schema_change.find(schema_change.read([made])) == []
    assert schema_change.find(schema_change.read([made.replace("ON new", "ON old")])) != []


def test_texts_and_comments_hide_nothing_and_are_not_read():
    text = "INSERT INTO a VALUES ('; DROP TABLE b; --'); /* DROP TABLE c; */ -- DROP TABLE d;\n"

    [one, two] = schema_change.read([text + 'DROP TABLE "e;f"'])

    assert one.codes == ()
    assert (two.table, two.codes) == ("e_f", ("taken_away",))


def test_each_action_shows_its_lock():
    statements = [
        "ALTER TABLE a ADD COLUMN b int",
        "ALTER TABLE a VALIDATE CONSTRAINT c",
        "CREATE INDEX ON a (b)",
    ]

    assert [change.lock for change in schema_change.read(statements)] == [
        "ACCESS EXCLUSIVE",
        "SHARE UPDATE EXCLUSIVE",
        "SHARE",
    ]
