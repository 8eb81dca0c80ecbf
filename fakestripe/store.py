"""What the stand-in remembers: one SQLite file, committed before any answer leaves.

A request is one transaction: the objects it changes, the events it causes, their deliveries
and the answer stored under its idempotency key stand or fall together. So a kill -9 loses
nothing that was acknowledged, and leaves nothing half done.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    created INTEGER NOT NULL, body TEXT NOT NULL, private TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS objects_by_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS meter_events ON objects (json_extract(body, '$.identifier'))
    WHERE kind = 'billing.meter_event';
CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY, endpoint TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, body TEXT NOT NULL, headers TEXT NOT NULL,
    request_id TEXT NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, due_at REAL NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, defect TEXT NOT NULL DEFAULT '',
    defect_attempts INTEGER NOT NULL DEFAULT 0, last_status INTEGER, last_error TEXT);
CREATE INDEX IF NOT EXISTS deliveries_pending ON deliveries (due_at) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (event_id);
CREATE TABLE IF NOT EXISTS rules (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, remaining INTEGER NOT NULL,
    body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, due_at INTEGER NOT NULL, name TEXT NOT NULL,
    object_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS tasks_by_time ON tasks (due_at, seq);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted, as Stripe's cursors say it."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None


class Query:
    """Conditions on the objects of one kind, all of which must hold."""

    def __init__(self, kind: str) -> None:
        self._conditions = ["kind = ?"]
        self.values: list[Any] = [kind]

    @property
    def source(self) -> str:
        """The part of the statement from FROM on; it holds no value, only marks."""
        return f"FROM objects WHERE {' AND '.join(self._conditions)}"

    def copy(self) -> Query:
        other = Query("")
        other._conditions = list(self._conditions)
        other.values = list(self.values)
        return other

    def where(self, condition: str, *values: Any) -> Query:
        """Add a condition: SQL of ours, with a mark for each value."""
        self._conditions.append(condition)
        self.values.extend(values)
        return self

    def equals(self, member: str, value: Any) -> Query:
        """Only objects whose top-level member has this value."""
        return self.where(f"json_extract(body, '$.{member}') = ?", value)


class Store:
    """The SQLite file. Used from one thread only: the one the event loop runs on."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: an acknowledged payment also survives a loss of power.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or nothing is."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Objects

    def insert(
        self,
        body: Json,
        private: Json | None = None,
        *,
        identifier: str | None = None,
        created: int | None = None,
    ) -> None:
        """Add an object.

        Args:
            body: As Stripe shows it.
            private: What Stripe knows of it and does not show.
            identifier: For an object that shows no id.
            created: Unix seconds, for an object that shows another form of time.
        """
        values = (
            identifier or body["id"],
            body["object"],
            body["created"] if created is None else created,
            _dump(body),
            _dump(private or {}),
        )
        self._db.execute(
            "INSERT INTO objects (id, kind, created, body, private) VALUES (?, ?, ?, ?, ?)", values
        )

    def save(self, body: Json, *, identifier: str | None = None) -> None:
        self._db.execute(
            "UPDATE objects SET body = ? WHERE id = ?", (_dump(body), identifier or body["id"])
        )

    def save_private(self, identifier: str, private: Json) -> None:
        self._db.execute(
            "UPDATE objects SET private = ? WHERE id = ?", (_dump(private), identifier)
        )

    def replace(self, identifier: str, body: Json, private: Json, *, created: int | None) -> None:
        """Change everything about an object but its name."""
        self._db.execute(
            "UPDATE objects SET body = ?, private = ?, created = coalesce(?, created) WHERE id = ?",
            (_dump(body), _dump(private), created, identifier),
        )

    def delete(self, identifier: str) -> None:
        self._db.execute("DELETE FROM objects WHERE id = ?", (identifier,))

    def sum(self, query: Query, member: str) -> int:
        """The sum of a top-level number over every match."""
        row = self._db.execute(
            f"SELECT coalesce(sum(json_extract(body, '$.{member}')), 0) AS total {query.source}",
            query.values,
        ).fetchone()
        return int(row["total"])

    def find(self, identifier: str, kind: str | None = None) -> Json | None:
        row = self._db.execute(
            "SELECT body FROM objects WHERE id = ? AND kind = coalesce(?, kind)",
            (identifier, kind),
        ).fetchone()
        return _load(row["body"]) if row else None

    def find_private(self, identifier: str) -> Json:
        row = self._db.execute("SELECT private FROM objects WHERE id = ?", (identifier,)).fetchone()
        return _load(row["private"]) if row else {}

    def list_all(self, query: Query) -> list[Json]:
        """Every match, oldest first."""
        rows = self._db.execute(f"SELECT body {query.source} ORDER BY seq", query.values)
        return [_load(row["body"]) for row in rows]

    def list_with_private(self, query: Query) -> list[tuple[Json, Json]]:
        """Every match with what Stripe does not show of it, oldest first."""
        rows = self._db.execute(f"SELECT body, private {query.source} ORDER BY seq", query.values)
        return [(_load(row["body"]), _load(row["private"])) for row in rows]

    def find_id(self, query: Query) -> str | None:
        """The name of the newest match, also of an object that shows no id."""
        row = self._db.execute(
            f"SELECT id {query.source} ORDER BY seq DESC LIMIT 1", query.values
        ).fetchone()
        return str(row["id"]) if row else None

    def list_page(self, query: Query, page: Page) -> tuple[list[Json], bool]:
        """One page, newest first, and whether more follow in its direction."""
        forwards = page.ending_before is None
        query = query.copy()
        if page.starting_after:
            query.where("seq < (SELECT seq FROM objects WHERE id = ?)", page.starting_after)
        if page.ending_before:
            query.where("seq > (SELECT seq FROM objects WHERE id = ?)", page.ending_before)
        rows = self._db.execute(
            f"SELECT body {query.source} ORDER BY seq {'DESC' if forwards else 'ASC'} LIMIT ?",
            [*query.values, page.limit + 1],
        ).fetchall()
        found = [_load(row["body"]) for row in rows[: page.limit]]
        return (found if forwards else found[::-1]), len(rows) > page.limit

    def count_by_kind(self) -> dict[str, int]:
        rows = self._db.execute("SELECT kind, count(*) AS n FROM objects GROUP BY kind")
        return {row["kind"]: row["n"] for row in rows}

    # Answers stored under idempotency keys

    def find_key(self, key: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT * FROM keys WHERE key = ?", (key,)
        ).fetchone()
        return row

    def insert_key(self, **columns: Any) -> None:
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        self._db.execute(
            f"INSERT INTO keys ({names}) VALUES ({marks})",  # noqa: S608 - names are ours
            list(columns.values()),
        )

    def delete_keys_before(self, moment: int, moment_v2: int) -> None:
        """Forget old keys; those of API v2 have a limit of their own."""
        self._db.execute(
            "DELETE FROM keys WHERE created < CASE WHEN endpoint LIKE '% /v2/%' THEN ? ELSE ? END",
            (moment_v2, moment),
        )

    # Deliveries of events

    def insert_delivery(
        self, event_id: str, *, due_at: float, state: str, defect: str, defect_attempts: int
    ) -> None:
        self._db.execute(
            "INSERT INTO deliveries (event_id, due_at, state, defect, defect_attempts) "
            "VALUES (?, ?, ?, ?, ?)",
            (event_id, due_at, state, defect, defect_attempts),
        )

    def list_deliveries(
        self, *, state: str | None = None, due_at: float | None = None
    ) -> list[Json]:
        rows = self._db.execute(
            "SELECT d.*, json_extract(o.body, '$.type') AS type FROM deliveries d "
            "JOIN objects o ON o.id = d.event_id "
            "WHERE d.state = coalesce(?, d.state) AND d.due_at <= coalesce(?, d.due_at) "
            "ORDER BY d.due_at, d.seq",
            (state, due_at),
        )
        return [dict(row) for row in rows]

    def next_delivery_at(self) -> float | None:
        row = self._db.execute(
            "SELECT min(due_at) AS due_at FROM deliveries WHERE state = 'pending'"
        ).fetchone()
        due_at: float | None = row["due_at"]
        return due_at

    def record_attempt(
        self, seq: int, *, state: str, due_at: float, status: int | None, error: str | None
    ) -> None:
        self._db.execute(
            "UPDATE deliveries SET state = ?, due_at = ?, last_status = ?, last_error = ?, "
            "attempts = attempts + 1, defect_attempts = max(0, defect_attempts - 1) WHERE seq = ?",
            (state, due_at, status, error, seq),
        )

    def count_pending_deliveries(self, event_id: str) -> int:
        row = self._db.execute(
            "SELECT count(*) AS n FROM deliveries WHERE event_id = ? AND state = 'pending'",
            (event_id,),
        ).fetchone()
        return int(row["n"])

    # Rules of the control plane: faults and treatment of webhooks

    def insert_rule(self, kind: str, body: Json, times: int) -> None:
        self._db.execute(
            "INSERT INTO rules (kind, remaining, body) VALUES (?, ?, ?)", (kind, times, _dump(body))
        )

    def list_rules(self, kind: str) -> list[tuple[int, int, Json]]:
        """Sequence number, how often it still applies, and the rule."""
        rows = self._db.execute("SELECT * FROM rules WHERE kind = ? ORDER BY seq", (kind,))
        return [(row["seq"], row["remaining"], _load(row["body"])) for row in rows]

    def use_rule(self, seq: int) -> None:
        self._db.execute("UPDATE rules SET remaining = remaining - 1 WHERE seq = ?", (seq,))
        self._db.execute("DELETE FROM rules WHERE seq = ? AND remaining <= 0", (seq,))

    def delete_rules(self, kind: str) -> None:
        self._db.execute("DELETE FROM rules WHERE kind = ?", (kind,))

    # Work that becomes due as Stripe's clock goes on

    def insert_task(self, due_at: int, name: str, object_id: str) -> None:
        self._db.execute(
            "INSERT INTO tasks (due_at, name, object_id) VALUES (?, ?, ?)",
            (due_at, name, object_id),
        )

    def take_task(self, now: int) -> tuple[int, str, str] | None:
        """Remove the task that has been due longest: its time, name and object."""
        row = self._db.execute(
            "DELETE FROM tasks WHERE seq = (SELECT seq FROM tasks WHERE due_at <= ? "
            "ORDER BY due_at, seq LIMIT 1) RETURNING due_at, name, object_id",
            (now,),
        ).fetchone()
        return (row["due_at"], row["name"], row["object_id"]) if row else None

    def has_due_task(self, now: int) -> bool:
        query = "SELECT 1 FROM tasks WHERE due_at <= ? LIMIT 1"
        return self._db.execute(query, (now,)).fetchone() is not None

    def pull_deliveries(self, seconds: int) -> None:
        """Make what waits for its next attempt due earlier, because the clock was advanced."""
        self._db.execute(
            "UPDATE deliveries SET due_at = due_at - ? WHERE state = 'pending'", (seconds,)
        )

    # Settings and the whole

    def get_setting(self, name: str, default: str = "") -> str:
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else default

    def set_setting(self, name: str, value: str) -> None:
        self._db.execute(
            "INSERT INTO settings (name, value) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def delete_everything(self) -> None:
        for table in ("objects", "keys", "deliveries", "rules", "tasks", "settings"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names are ours


def _dump(body: Json) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _load(text: str) -> Json:
    body: Json = json.loads(text)
    return body
