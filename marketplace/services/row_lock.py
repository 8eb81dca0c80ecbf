"""One process at a time looks after a row, also while it waits for somebody else's server.

A row's own lock would hold a transaction open for as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection


@contextmanager
def hold_row(space: int, row_id: UUID) -> Iterator[bool]:
    """Whether the row is ours until the end of the block; nobody is waited for.

    The lock belongs to the connection and goes with it. It spares work and waiting; that nothing
    is done twice rests on something else.

    Args:
        space: Tells the rows of one kind from those of others.
        row_id: Of the row.
    """
    key = row_id.int & 0x7FFF_FFFF
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [space, key])
        is_ours = bool(cursor.fetchone()[0])
    try:
        yield is_ours
    finally:
        if is_ours:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [space, key])
