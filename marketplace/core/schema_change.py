"""Read what a migration does to tables that are in use: which locks, and who must wait.

A platform migrates while its old processes go on. So a statement is bad if it keeps a table
locked for as long as that table is large, or if it takes something away that the release before
still asks for. The statements are read as text, without a database: what cannot be read is a
finding too, so that nothing passes by being strange.

Source: PostgreSQL 18, "Explicit Locking" and "ALTER TABLE".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
SHARE = "SHARE"
ROW_EXCLUSIVE = "ROW EXCLUSIVE"

ADVICE = {
    "volatile_default": "add the column without it, fill it in portions by a task, then set it",
    "rewrites_table": "make a new column or table beside it, and copy in portions by a task",
    "type_change": "add a column of the new type, write both, copy in portions by a task",
    "set_not_null": "add CHECK (... IS NOT NULL) NOT VALID, validate it in a later migration",
    "index_blocks_writes": "use AddIndexConcurrently in a migration of its own, atomic = False",
    "index_in_transaction": "CONCURRENTLY needs a migration of its own, with atomic = False",
    "constraint_checks_rows": "add it NOT VALID, and VALIDATE CONSTRAINT in a later migration",
    "validates_in_same_transaction": "validate in a later migration: the lock is kept till its end",
    "writes_rows": "change rows in portions by a task, after the migration",
    "not_null_without_default": "give it db_default: the release before inserts without it",
    "taken_away": "the release before still asks for it: let go of it in the next release",
    "runs_python": "do it in portions by a task, after the migration",
    "cannot_be_read": "write it as plain statements that can be read here",
}
# How bad they are does not depend on how many rows there are.
OF_ANY_SIZE = {"not_null_without_default", "taken_away", "runs_python", "cannot_be_read"}
# What Django writes in the place of a function of Python's.
PYTHON_MARK = "-- THIS OPERATION CANNOT BE WRITTEN AS SQL"

# They give the same for every row, so that the table need not be written anew.
_STABLE = {"now", "transaction_timestamp", "statement_timestamp"}
_NAME = r'((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)'
_COLUMN = r'("[^"]+"|\w+)'
_QUOTED = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<text>'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"""
    r"""|(?P<name>"[^"]*")""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Finding:
    """A reason not to run a statement beside the release before.

    Args:
        code: A key of `ADVICE`.
        table: Whose rows or users are concerned; empty if it cannot be said.
        statement: Shortened.
    """

    code: str
    table: str
    statement: str

    @property
    def depends_on_size(self) -> bool:
        """Whether it is harmless where the table is small."""
        return self.code not in OF_ANY_SIZE

    def __str__(self) -> str:
        place = f" {self.table}" if self.table else ""
        return f"{self.code}{place}: {self.statement} -- {ADVICE[self.code]}"


@dataclass(frozen=True)
class Change:
    """One statement, read."""

    statement: str
    table: str = ""
    # Postgres' name of the strongest lock that it takes on the table; empty for none.
    lock: str = ""
    codes: tuple[str, ...] = ()


@dataclass
class _Migration:
    """What has been read of one so far."""

    is_atomic: bool
    made: set[str] = field(default_factory=set)
    not_null: set[tuple[str, str]] = field(default_factory=set)
    unchecked: set[str] = field(default_factory=set)


def split(text: str) -> list[str]:
    """The statements of a script, without comments and with single spaces.

    Texts in quotes or dollars are emptied: what stands in them is data, or the body of a function
    that runs later. A mark of a function of Python's stays as a statement of its own.
    """
    bare = _QUOTED.sub(_mask, text)
    statements = (" ".join(part.split()) for part in bare.split(";"))
    return [statement for statement in statements if statement]


def _mask(match: re.Match[str]) -> str:
    if match["comment"]:
        return ";RUN PYTHON;" if match["comment"].startswith(PYTHON_MARK) else " "
    # A name may hold what looks like the end of a statement.
    return "''" if match["text"] else match["name"].replace(";", "_")


def read(scripts: Iterable[str], *, is_atomic: bool = True) -> list[Change]:
    """What a migration's statements do, in their order.

    Args:
        scripts: As Django collects them; each may hold several statements.
        is_atomic: Whether all of them are one transaction.
    """
    seen = _Migration(is_atomic)
    return [
        change for text in scripts for one in split(text) for change in _read_statement(one, seen)
    ]


def find(changes: Iterable[Change]) -> list[Finding]:
    """Why these changes should not be made while the release before runs."""
    return [
        Finding(code, change.table, _shorten(change.statement))
        for change in changes
        for code in change.codes
    ]


def _shorten(statement: str, length_max: int = 100) -> str:
    return statement if len(statement) <= length_max else f"{statement[: length_max - 3]}..."


def _read_statement(statement: str, seen: _Migration) -> Iterator[Change]:
    alter = re.match(
        rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{_NAME} (.*)", statement, re.IGNORECASE
    )
    if alter:
        table = _bare(alter[1])
        for action in _split_commas(alter[2]):
            lock, codes = _read_action(table, action, seen)
            yield Change(
                f"ALTER TABLE {table} {action}", table, lock, _without_new(table, codes, seen)
            )
        return
    for pattern, reader in _READERS:
        match = re.match(pattern, statement, re.IGNORECASE)
        if match:
            yield reader(statement, match, seen)
            return
    yield Change(statement, codes=("cannot_be_read",))


def _without_new(table: str, codes: tuple[str, ...], seen: _Migration) -> tuple[str, ...]:
    """Nobody uses, and nothing fills, a table that this very migration makes."""
    if table not in seen.made:
        return codes
    return tuple(code for code in codes if code in ("cannot_be_read", "index_in_transaction"))


def _bare(name: str) -> str:
    return name.replace('"', "").removeprefix("public.").lower()


def _split_commas(text: str) -> list[str]:
    parts, depth, quoted, start = [], 0, False, 0
    for index, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "([":
            depth += 1
        elif not quoted and letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0 and not quoted:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


# Of ALTER TABLE. Each is tried in this order; the first that fits is taken.


def _read_action(table: str, action: str, seen: _Migration) -> tuple[str, tuple[str, ...]]:
    constraint = re.match(
        r"ADD (?:CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE)\b", action, re.IGNORECASE
    )
    if constraint:
        return _read_constraint(table, action, seen)
    column = re.match(rf"ADD (?:COLUMN )?(?:IF NOT EXISTS )?{_COLUMN} (.*)", action, re.IGNORECASE)
    if column:
        return ACCESS_EXCLUSIVE, _read_column(table, _bare(column[1]), column[2], seen)
    if re.match(r"VALIDATE CONSTRAINT", action, re.IGNORECASE):
        held = seen.is_atomic and table in seen.unchecked
        return SHARE_UPDATE_EXCLUSIVE, ("validates_in_same_transaction",) if held else ()
    default = re.match(rf"ALTER (?:COLUMN )?{_COLUMN} DROP DEFAULT", action, re.IGNORECASE)
    if default:
        lost = (table, _bare(default[1])) in seen.not_null
        return ACCESS_EXCLUSIVE, ("not_null_without_default",) if lost else ()
    for pattern, lock, codes in _ACTIONS:
        if re.match(pattern, action, re.IGNORECASE):
            return lock, codes
    return ACCESS_EXCLUSIVE, ("cannot_be_read",)


_ALTER_COLUMN = rf"ALTER (?:COLUMN )?{_COLUMN} "
_ACTIONS: list[tuple[str, str, tuple[str, ...]]] = [
    (rf"{_ALTER_COLUMN}(?:SET DATA )?TYPE\b", ACCESS_EXCLUSIVE, ("type_change",)),
    (rf"{_ALTER_COLUMN}SET NOT NULL", ACCESS_EXCLUSIVE, ("set_not_null",)),
    (rf"{_ALTER_COLUMN}(?:DROP NOT NULL|SET DEFAULT)", ACCESS_EXCLUSIVE, ()),
    (rf"{_ALTER_COLUMN}(?:ADD GENERATED|DROP IDENTITY)", ACCESS_EXCLUSIVE, ("taken_away",)),
    (rf"{_ALTER_COLUMN}SET (?:STATISTICS|STORAGE|\()", SHARE_UPDATE_EXCLUSIVE, ()),
    (r"DROP CONSTRAINT", ACCESS_EXCLUSIVE, ()),
    (r"(?:DROP|RENAME)\b", ACCESS_EXCLUSIVE, ("taken_away",)),
    (r"(?:ENABLE|DISABLE)\b.*\bTRIGGER\b", SHARE_ROW_EXCLUSIVE, ()),
    (r"SET \(|RESET \(", SHARE_UPDATE_EXCLUSIVE, ()),
    (r"SET (?:LOGGED|UNLOGGED|TABLESPACE|ACCESS METHOD)", ACCESS_EXCLUSIVE, ("rewrites_table",)),
]


def _read_constraint(table: str, action: str, seen: _Migration) -> tuple[str, tuple[str, ...]]:
    is_foreign = re.search(r"\bFOREIGN KEY\b", action, re.IGNORECASE)
    lock = SHARE_ROW_EXCLUSIVE if is_foreign else ACCESS_EXCLUSIVE
    if re.search(r"\bNOT VALID$", action, re.IGNORECASE):
        seen.unchecked.add(table)
        return lock, ()
    if re.search(r"\bUSING INDEX\b", action, re.IGNORECASE):
        return lock, ()
    if re.search(r"\b(?:CHECK|NOT NULL|FOREIGN KEY)\b", action, re.IGNORECASE):
        return lock, ("constraint_checks_rows",)
    return lock, ("index_blocks_writes",)


def _read_column(table: str, column: str, definition: str, seen: _Migration) -> tuple[str, ...]:
    codes = []
    default = re.search(
        r"\bDEFAULT (.+?)(?= NOT NULL| NULL\b| CONSTRAINT | CHECK | REFERENCES | UNIQUE| PRIMARY"
        r" | GENERATED |$)",
        definition,
        re.IGNORECASE,
    )
    if default and not {name.lower() for name in re.findall(r"(\w+) ?\(", default[1])} <= _STABLE:
        codes.append("volatile_default")
    if re.search(r"\bGENERATED\b|\w*SERIAL\b", definition, re.IGNORECASE):
        codes.append("rewrites_table")
    elif re.search(r"\bNOT NULL\b", definition, re.IGNORECASE):
        seen.not_null.add((table, column))
        if not default:
            codes.append("not_null_without_default")
    if re.search(r"\bUNIQUE\b|\bPRIMARY KEY\b", definition, re.IGNORECASE):
        codes.append("index_blocks_writes")
    if re.search(r"\bREFERENCES\b|\bCHECK\b", definition, re.IGNORECASE):
        codes.append("constraint_checks_rows")
    return tuple(codes)


# Of other statements.

Reader = Callable[[str, "re.Match[str]", _Migration], Change]


def _read_new_table(statement: str, match: re.Match[str], seen: _Migration) -> Change:
    seen.made.add(_bare(match[1]))
    return Change(statement, _bare(match[1]))


def _read_index(statement: str, match: re.Match[str], seen: _Migration) -> Change:
    table = _bare(match[2])
    if match[1]:
        codes: tuple[str, ...] = ("index_in_transaction",) if seen.is_atomic else ()
        return Change(statement, table, SHARE_UPDATE_EXCLUSIVE, codes)
    codes = _without_new(table, ("index_blocks_writes",), seen)
    return Change(statement, table, SHARE, codes)


def _read_lost_index(statement: str, match: re.Match[str], seen: _Migration) -> Change:
    # Which table it is of does not stand there. It goes in no time, once its lock is got.
    if not match[1]:
        return Change(statement, lock=ACCESS_EXCLUSIVE)
    codes = ("index_in_transaction",) if seen.is_atomic else ()
    return Change(statement, lock=SHARE_UPDATE_EXCLUSIVE, codes=codes)


def _with(lock: str, *codes: str) -> Reader:
    """A reader of statements that name their table in the first group, if they have one."""

    def reader(statement: str, match: re.Match[str], seen: _Migration) -> Change:
        table = _bare(match[1]) if match.re.groups and match[1] else ""
        return Change(statement, table, lock, _without_new(table, codes, seen))

    return reader


_READERS: list[tuple[str, Reader]] = [
    (r"RUN PYTHON$", _with("", "runs_python")),
    (r"(?:BEGIN|COMMIT|START TRANSACTION)$|SET (?:LOCAL |CONSTRAINTS )?\S", _with("")),
    (rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?{_NAME}(?= ?\(| AS)", _read_new_table),
    (
        r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?(?:\S+ )?ON (?:ONLY )?"
        + _NAME,
        _read_index,
    ),
    (r"DROP INDEX (CONCURRENTLY )?", _read_lost_index),
    (r"ALTER INDEX \S+ RENAME", _with(SHARE_UPDATE_EXCLUSIVE)),
    (r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|VIEW|AGGREGATE)\b", _with("")),
    (
        r"CREATE (?:SEQUENCE|TYPE|DOMAIN|EXTENSION|SCHEMA|COLLATION|OPERATOR|STATISTICS)\b",
        _with(""),
    ),
    (
        rf"CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER .+? ON {_NAME}",
        _with(SHARE_ROW_EXCLUSIVE),
    ),
    (rf"DROP TRIGGER (?:IF EXISTS )?\S+ ON {_NAME}", _with(ACCESS_EXCLUSIVE)),
    (rf"DROP TABLE (?:IF EXISTS )?{_NAME}", _with(ACCESS_EXCLUSIVE, "taken_away")),
    (
        r"DROP (?:FUNCTION|PROCEDURE|VIEW|MATERIALIZED VIEW|TYPE|SEQUENCE)\b",
        _with("", "taken_away"),
    ),
    (r"ALTER (?:FUNCTION|VIEW|TYPE|SEQUENCE)\b.*\bRENAME\b", _with("", "taken_away")),
    (r"ALTER (?:FUNCTION|SEQUENCE)\b", _with("")),
    (rf"COMMENT ON TABLE {_NAME}", _with(SHARE_UPDATE_EXCLUSIVE)),
    (r"COMMENT ON\b|GRANT\b|REVOKE\b", _with("")),
    # Another function that is called may change every row.
    (r"SELECT (?:pg_catalog\.)?setval ?\(", _with("")),
    (rf"INSERT INTO {_NAME}(?: \([^)]*\))? (?:VALUES|DEFAULT VALUES)", _with(ROW_EXCLUSIVE)),
    (rf"INSERT INTO {_NAME}", _with(ROW_EXCLUSIVE, "writes_rows")),
    (rf"UPDATE (?:ONLY )?{_NAME} ", _with(ROW_EXCLUSIVE, "writes_rows")),
    (rf"DELETE FROM (?:ONLY )?{_NAME}", _with(ROW_EXCLUSIVE, "writes_rows")),  # noqa: S608
    (rf"TRUNCATE (?:TABLE )?{_NAME}", _with(ACCESS_EXCLUSIVE, "taken_away")),
    (rf"LOCK (?:TABLE )?{_NAME}", _with(ACCESS_EXCLUSIVE, "rewrites_table")),
    (
        rf"(?:CLUSTER|VACUUM|REINDEX TABLE) (?:\(?FULL\)? )?{_NAME}",
        _with(ACCESS_EXCLUSIVE, "rewrites_table"),
    ),
]
