"""Which schema this code runs on, and whether the database has it.

Code and schema are numbered together: `CODE_NUMBER` rises by one in each release that has
migrations. The database notes the number of its schema, and the smallest number of code that may
still run on it. Old code on a newer schema is the middle of every upgrade, and is welcome until
a release says otherwise; new code on an older schema would fail at its first query, and waits.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from enum import Enum

from marketplace.core.env import env_int

# Raise it by one with the first migration of a release.
CODE_NUMBER = 1
# The oldest code that finds all it needs in this release's schema. It rises in the release that
# drops what the one before stopped to use.
CODE_NUMBER_MIN = 1

WAIT_SETTING = "STRONGROOM_SCHEMA_WAIT_S"
# Enough for a database that starts together with this process, and for a short migration.
WAIT_S_DEFAULT = 60
WAIT_S_MAX = 3600
_PAUSE_S = 1.0
_CONNECT_TIMEOUT_S = 5
_QUERY = "SELECT number, code_number_min FROM marketplace_schemanumber"


class Fit(Enum):
    """How code and schema go together; the value is the exit code that says so."""

    FINE = 0
    TOO_OLD = 3
    TOO_NEW = 4
    UNKNOWN = 5


@dataclass(frozen=True)
class SchemaNumber:
    """What the database says of itself. Zero: it was made before schemas had numbers."""

    number: int
    code_number_min: int


class SchemaError(Exception):
    """This code may not run on this schema."""

    def __init__(self, fit: Fit, detail: str) -> None:
        super().__init__(detail)
        self.fit = fit


def judge(found: SchemaNumber, code_number: int = CODE_NUMBER) -> Fit:
    """Whether code of a number may run on a schema."""
    if found.code_number_min > code_number:
        return Fit.TOO_NEW
    return Fit.FINE if found.number >= code_number else Fit.TOO_OLD


def read(database_url: str) -> SchemaNumber:
    """Ask the database.

    Raises:
        SchemaError: With `Fit.UNKNOWN`, if it does not answer or does not let this role ask.
    """
    import psycopg

    try:
        with psycopg.connect(database_url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            row = connection.execute(_QUERY).fetchone()
    except psycopg.errors.UndefinedTable:
        return SchemaNumber(0, 0)
    except psycopg.errors.InsufficientPrivilege as error:
        detail = "this role may not read marketplace_schemanumber: run manage.py grant_roles"
        raise SchemaError(Fit.UNKNOWN, detail) from error
    except psycopg.Error as error:
        # Its text may hold the address; the class does not.
        detail = f"the database does not answer ({type(error).__name__})"
        raise SchemaError(Fit.UNKNOWN, detail) from error
    return SchemaNumber(*row) if row else SchemaNumber(0, 0)


def check(database_url: str, *, wait_s: float = 0, code_number: int = CODE_NUMBER) -> SchemaNumber:
    """Return what the database says if this code may run on it.

    A schema that is too old is waited for: its migration may be under way. One that is too new
    will not become older.

    Args:
        database_url: Any of our roles may ask.
        wait_s: For how long to look again.
        code_number: Another than this code's, for tests.

    Raises:
        SchemaError: It may not, with both numbers in the text.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return _check_once(database_url, code_number)
        except SchemaError as error:
            if error.fit is Fit.TOO_NEW or time.monotonic() >= deadline:
                raise
        time.sleep(min(_PAUSE_S, max(deadline - time.monotonic(), 0)))


def _check_once(database_url: str, code_number: int) -> SchemaNumber:
    found = read(database_url)
    fit = judge(found, code_number)
    if fit is not Fit.FINE:
        raise SchemaError(fit, describe(found, code_number))
    return found


def describe(found: SchemaNumber, code_number: int = CODE_NUMBER) -> str:
    """Both numbers, and what to do."""
    if judge(found, code_number) is Fit.TOO_NEW:
        return (
            f"the schema has number {found.number} and takes code of number"
            f" {found.code_number_min} or more, this code has {code_number}: run a newer release"
        )
    return (
        f"the schema has number {found.number}, this code needs {code_number} or more:"
        " run manage.py migrate of this release first"
    )


def read_wait_s() -> int:
    """For how long a process that starts waits for its schema."""
    return env_int(WAIT_SETTING, WAIT_S_DEFAULT, maximum=WAIT_S_MAX)


def check_at_start(process: str, database_url: str, wait_s: float) -> None:
    """End this process with `Fit`'s exit code and a sentence unless the schema fits."""
    try:
        check(database_url, wait_s=wait_s)
    except SchemaError as error:
        print(f"{process}: {error}", file=sys.stderr)
        sys.exit(error.fit.value)
