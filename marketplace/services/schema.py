"""Does the database have the schema that this code was written for?"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection
from django.db.migrations.loader import MigrationLoader


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What the code knows and the database has not, and the other way round."""

    missing: list[str]
    unknown: list[str]

    @property
    def is_too_old(self) -> bool:
        """Whether the code would look for what is not there. A newer schema is fine for it."""
        return bool(self.missing)


def read_schema_state() -> SchemaState:
    """Compare the migrations of this code with those that were carried out.

    Raises:
        OperationalError: The database does not answer.
    """
    loader = MigrationLoader(connection)
    known, applied = set(loader.disk_migrations), set(loader.applied_migrations)
    apps = {app for app, _ in known}
    return SchemaState(
        missing=sorted(f"{app}.{name}" for app, name in known - applied),
        # Of apps of ours; others may have been installed once.
        unknown=sorted(f"{app}.{name}" for app, name in applied - known if app in apps),
    )
