"""Empty tables between tests: only those in which something is."""

from __future__ import annotations

import functools

from django.db import OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected

ATTEMPTS_MAX = 3
# Made with the database, from the models alone; no test changes them.
KEPT = {"django_content_type", "auth_permission"}


def empty() -> None:
    """Delete every row of every table.

    A gateway gives slices back a second after its last prediction. If that meets the deletion
    half way, Postgres may end one of the two; what was done is undone, and it may go again.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return _empty()
        except OperationalError as error:
            if not isinstance(error.__cause__, DeadlockDetected):
                raise
    return _empty()


def _empty() -> None:
    quote = connection.ops.quote_name
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_question())
        filled = [name for (name,) in cursor.fetchall()]
        if not filled:
            return
        # No trigger speaks and no foreign key asks in this transaction.
        cursor.execute("SET LOCAL session_replication_role = replica")
        for name in filled:
            cursor.execute(f"DELETE FROM {quote(name)}")


@functools.cache
def _question() -> str:
    """Which tables hold a row."""
    names = set(connection.introspection.django_table_names(only_existing=True)) - KEPT
    return " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (SELECT FROM {connection.ops.quote_name(name)})"
        for name in sorted(names)
    )
