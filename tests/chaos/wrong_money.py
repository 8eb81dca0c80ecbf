"""Functions of the database that are wrong on purpose, for a while in place of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_FLOOR = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'billing_ledgeraccount'::regclass
        AND pg_get_constraintdef(oid) LIKE '%min_available_nanos%'
"""


@contextmanager
def check_then_deduct(url: str) -> Iterator[None]:
    """Holds that look at the balance once, and for each prediction take from it a moment later.

    The table's own check, which would refuse what comes of it, is off meanwhile.
    """
    with (
        replaced(
            url,
            "billing_reserve",
            {
                "ORDER BY a.id FOR NO KEY UPDATE": "",
                "SELECT a.id, a.posted": "IF v_wallet IS NULL THEN SELECT a.id, a.posted",
                "ORDER BY a.kind LIMIT 1;": "ORDER BY a.kind LIMIT 1; END IF;",
                "v_amount := greatest(": "PERFORM pg_sleep(0.02); v_amount := greatest(",
            },
        ),
        psycopg.connect(url, autocommit=True) as connection,
    ):
        [(name, definition)] = connection.execute(_FLOOR).fetchall()
        connection.execute(f"ALTER TABLE billing_ledgeraccount DROP CONSTRAINT {name}")
        try:
            yield
        finally:
            # What was sold meanwhile stays below the floor until the tables are emptied.
            connection.execute(
                f"ALTER TABLE billing_ledgeraccount ADD CONSTRAINT {name} {definition} NOT VALID"
            )


@contextmanager
def book_repeats_anew(url: str) -> Iterator[None]:
    """A booking that takes a repeated id for another prediction."""
    changes = {
        "DISTINCT ON (i.id) i.id, i.group_no": "DISTINCT ON (i.id)"
        " CASE WHEN u.prediction_id IS NULL THEN i.id ELSE uuidv7() END AS id, i.group_no",
        "u.prediction_id IS NOT NULL AS is_repeated": "false AS is_repeated",
    }
    with replaced(url, "billing_settle", changes):
        yield


@contextmanager
def replaced(url: str, function: str, changes: dict[str, str]) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT pg_get_functiondef(%s::regproc)"
        [(right,)] = connection.execute(query, [function]).fetchall()
        wrong = right
        for old, new in changes.items():
            assert wrong.count(old) == 1, f"{function} has changed: {old!r}"
            wrong = wrong.replace(old, new)
        connection.execute(wrong)
        try:
            yield
        finally:
            connection.execute(right)
