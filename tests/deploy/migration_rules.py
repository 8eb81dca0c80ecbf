"""Rules for migrations, so that the last release's code goes on while they are carried out.

What was released is never changed: `migrations.sha256` has the digest of each migration and of each
file of SQL that one loads. What is not in it is new, and is linted. At a release, or when a
migration has gone to a platform: `python -m tests.deploy.migration_rules`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from marketplace.core import schema, schema_change

ROOT = Path(__file__).resolve().parents[2]
RELEASED = Path(__file__).with_name("migrations.sha256")
# The number of the last release's code; see `marketplace.core.schema`.
RELEASED_NUMBER = Path(__file__).with_name("code_number.txt")
APPS = ("marketplace", "inference", "billing")


# What the linter of the library leaves out, by code.
_RULES = {
    # Every row is looked at while nobody may write: NOT VALID first, VALIDATE in another migration.
    "ADD_CONSTRAINT": re.compile(
        r"ALTER TABLE (?!.*NOT VALID).*ADD CONSTRAINT .*(CHECK|FOREIGN KEY|EXCLUDE)", re.DOTALL
    ),
    # The last release's code still calls it.
    "DROP_FUNCTION": re.compile(r"^\s*DROP (FUNCTION|PROCEDURE|VIEW|TRIGGER)", re.MULTILINE),
    # Filled in portions, by a task.
    "LONG_UPDATE": re.compile(
        r"^\s*(UPDATE|DELETE FROM) \"?(billing_(transfer|transferentry|usageevent|hold|receiptleaf)"
        r"|inference_(prediction|finishedjob|job|apirequest|driftpart)|marketplace_auditevent)\b",
        re.MULTILINE,
    ),
    "LOCK_TABLE": re.compile(r"^\s*LOCK TABLE", re.MULTILINE),
}


def find_faults(sql: list[str]) -> set[str]:
    """Codes of what the last release, or a large table, would suffer from."""
    from django_migration_linter.sql_analyser import PostgresqlAnalyser, analyse_sql_statements

    errors, _, warnings = analyse_sql_statements(PostgresqlAnalyser, sql)
    found = {issue.code for issue in (*errors, *warnings)}
    # Also what cannot be read, which the guard of `manage.py migrate` lets pass.
    changes = schema_change.read(sql, is_atomic=sql[:1] == ["BEGIN;"])
    found |= {finding.code for finding in schema_change.find(changes)}
    return found | {code for code, rule in _RULES.items() if any(rule.search(one) for one in sql)}


def collect_sql(migration: Any, state: Any) -> list[str]:
    """What a migration would carry out, as `sqlmigrate` shows it; comments are left out."""
    from django.db import connection
    from django.db.migrations import RunPython

    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    lines = [one for one in editor.collected_sql if not one.startswith("--")]
    if any(isinstance(one, RunPython) for one in migration.operations):
        lines.append("LOCK TABLE everything -- RunPython may do anything, for any time")
    return ["BEGIN;", *lines] if migration.atomic else lines


def list_files(root: Path = ROOT) -> dict[str, str]:
    """Digest by path of everything that makes up the schema."""
    found = {}
    for app in APPS:
        for pattern in ("migrations/[0-9]*.py", "sql/*.sql"):
            for path in sorted((root / app).glob(pattern)):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(root))] = digest
    return found


def read_released(path: Path = RELEASED) -> dict[str, str]:
    """Digest by path of what was released."""
    lines = path.read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def find_edits(released: dict[str, str], now: dict[str, str]) -> list[str]:
    """Released files that are others now, or are gone."""
    return [
        f"{path}: {'was changed' if path in now else 'is gone'}; write a new migration"
        for path, digest in released.items()
        if now.get(path) != digest
    ]


def list_new_migrations(released: dict[str, str], now: dict[str, str]) -> list[tuple[str, str]]:
    """App and name of migrations that were not released."""
    paths = (Path(one) for one in now if one not in released and one.endswith(".py"))
    return [(path.parts[0], path.stem) for path in paths]


def expect_number(released_number: int, new_migrations: list[tuple[str, str]]) -> int:
    """The number that this code must have: one more, if it has migrations of its own."""
    return released_number + bool(new_migrations)


if __name__ == "__main__":
    if edits := find_edits(read_released() if RELEASED.exists() else {}, list_files()):
        raise SystemExit("\n".join(edits))
    RELEASED.write_text("".join(f"{one}  {path}\n" for path, one in list_files().items()))
    RELEASED_NUMBER.write_text(f"{schema.CODE_NUMBER}\n")
