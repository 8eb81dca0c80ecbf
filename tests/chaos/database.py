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
    url = json.loads((home / "env.json").read_text())["STRONGROOM_DATABASE_URL"]
    with psycopg.connect(url) as connection:
        return connection.execute(query, parameters).fetchall()
