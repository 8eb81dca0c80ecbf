"""Read the running product's database, past all of its code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg


def fetch(
    home: Path, query: LiteralString, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """The rows of a reading statement, on a connection of its own."""
    return fetch_from(find_url(home), query, parameters)


def fetch_from(
    url: str, query: LiteralString, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """The same, of any database."""
    with psycopg.connect(url) as connection:
        return connection.execute(query, parameters).fetchall()


def find_url(home: Path) -> str:
    """Where the product that runs there keeps its rows."""
    return str(json.loads((home / "env.json").read_text())["STRONGROOM_DATABASE_URL"])
