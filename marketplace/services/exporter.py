"""What an archive of an account's data is made of: one exporter per kind of rows.

The marketplace does not know what was predicted or paid. Each package registers here what it
keeps of an account, with the columns that leave: only what an exporter names is in an archive,
so that a new column of a table, a secret above all, is in none by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marketplace.models import Account

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Exporter:
    """One file of the archive.

    Args:
        name: Of the file, without its ending.
        title: What is in it, in one line for its reader.
        columns: Names of the values of a row, in their order.
        read: The rows of an account and of no other, read from the database little by little.
        is_json: Whether values have a shape of their own; the others are written as CSV.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    read: Callable[[Account], Iterable[Row]]
    is_json: bool = False

    @property
    def path(self) -> str:
        """Where it lies in the archive."""
        return f"data/{self.name}.{'json' if self.is_json else 'csv'}"


_exporters: dict[str, Exporter] = {}


def register_exporters(*exporters: Exporter) -> None:
    """Put these into archives from now on, too; called while the site starts."""
    for exporter in exporters:
        _exporters[exporter.name] = exporter


def list_exporters() -> Mapping[str, Exporter]:
    """All by name, in the order in which they were registered."""
    return _exporters
