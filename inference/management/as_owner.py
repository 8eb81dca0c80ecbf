"""For commands that need the role of the schema's owner: refusals in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError
from django.db import ProgrammingError
from psycopg.errors import InsufficientPrivilege

from marketplace.core.errors import MarketplaceError


@contextmanager
def as_owner() -> Iterator[None]:
    """Say what is wrong in a sentence.

    Raises:
        CommandError: For a refusal, or where the role may not do it.
    """
    try:
        yield
    except MarketplaceError as error:
        raise CommandError(error.detail) from error
    except ProgrammingError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        detail = "STRONGROOM_DATABASE_URL must be that of the schema's owner, as for migrate."
        raise CommandError(detail) from error
