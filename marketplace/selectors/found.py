"""The one row that was asked for, or the error that says that there is none."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet

from marketplace.core.errors import NotFoundError

Row = TypeVar("Row", bound=Model)


def get_one(rows: QuerySet[Row], detail: str) -> Row:
    """The first of the rows.

    Args:
        rows: Those that the caller may find, narrowed to the one that is asked for.
        detail: What the error says.

    Raises:
        NotFoundError: There is none.
    """
    row = rows.first()
    if row is None:
        raise NotFoundError(detail)
    return row
