"""Histories at Stripe and here, and ways to spoil either side behind everybody's back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from billing.models import ReconcileRun, Topup
from billing.services import topup
from billing.services.reconcile import reconcile
from marketplace.models import Account
from marketplace.selectors.access import Actor
from tests.fakestripe.process import FakeStripeProcess

# Older than what may be on its way, younger than a fee that should be known.
LONG_AGO_S = 2 * 3_600
TABLES = ("transfer", "transferentry", "usageevent")


def buy(fake: FakeStripeProcess, account: Account, amount_cents: int = 2_500) -> Topup:
    """A top-up from the click to the booking."""
    row = open_and_pay(fake, account, amount_cents)
    return topup.settle_topup(row.pk)


def open_and_pay(fake: FakeStripeProcess, account: Account, amount_cents: int = 2_500) -> Topup:
    """A top-up that was paid, and of which nobody told us."""
    row = topup.start_topup(Actor(), account, amount_cents=amount_cents)
    fake.order(f"checkout/{row.checkout_session_id}/pay")
    return row


def compare(**options: Any) -> ReconcileRun:
    """A run over the last days; the stand-in's clock may be behind ours."""
    return reconcile(**options)


def spoil(sql: str, *arguments: object) -> None:
    """Change our rows as somebody would who has the database."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in TABLES:
            cursor.execute(f"ALTER TABLE billing_{table} DISABLE TRIGGER USER")
        cursor.execute("ALTER TABLE marketplace_auditevent DISABLE TRIGGER USER")
        cursor.execute(sql, arguments)


def unbook(kind: str) -> None:
    """Take every transfer of a kind back as if it had never been."""
    of_kind = "FROM billing_transfer t WHERE t.id = e.transfer_id AND t.kind = %s"
    spoil(
        "UPDATE billing_ledgeraccount a SET posted_nanos = a.posted_nanos - d.nanos FROM ("
        " SELECT e.ledger_account_id, sum(e.amount_nanos) AS nanos FROM billing_transferentry e"
        f" WHERE EXISTS (SELECT 1 {of_kind}) GROUP BY 1) d WHERE a.id = d.ledger_account_id",
        kind,
    )
    spoil(f"DELETE FROM billing_transferentry e WHERE EXISTS (SELECT 1 {of_kind})", kind)
    spoil("DELETE FROM billing_transfer WHERE kind = %s", kind)


class Spoiler:
    """Changes what the stand-in remembers, in its file, while it runs."""

    def __init__(self, fake: FakeStripeProcess) -> None:
        self._path = fake._env["FAKESTRIPE_STATE"]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:
                yield database
        finally:
            database.close()

    def ids(self, kind: str) -> list[str]:
        with self._open() as database:
            rows = database.execute("SELECT id FROM objects WHERE kind = ? ORDER BY seq", (kind,))
            return [row[0] for row in rows]

    def delete(self, kind: str) -> None:
        """Forget the first object of a kind."""
        with self._open() as database:
            cursor = database.execute("DELETE FROM objects WHERE id = ?", (self.ids(kind)[0],))
            assert cursor.rowcount == 1

    def alter(self, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the first object of a kind."""
        identifier = self.ids(kind)[0]
        with self._open() as database:
            (text,) = database.execute(
                "SELECT body FROM objects WHERE id = ?", (identifier,)
            ).fetchone()
            body = json.loads(text)
            change(body)
            assert json.dumps(body) != text
            database.execute(
                "UPDATE objects SET body = ? WHERE id = ?", (json.dumps(body), identifier)
            )

    def duplicate(self, kind: str) -> None:
        """Have the first object of a kind twice, under another id."""
        identifier = self.ids(kind)[0]
        with self._open() as database:
            row = database.execute(
                "SELECT created, body, private FROM objects WHERE id = ?", (identifier,)
            ).fetchone()
            body = json.loads(row[1]) | {"id": f"{identifier}x"}
            database.execute(
                "INSERT INTO objects (id, kind, created, body, private) VALUES (?, ?, ?, ?, ?)",
                (body["id"], kind, row[0], json.dumps(body), row[2]),
            )
