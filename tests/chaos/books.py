"""What stands in the database about a consumer: usage, wallet, holds. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from tests.chaos import database
from tests.chaos.checker import Entry, Usage


@dataclass(frozen=True)
class Wallet:
    """A wallet at one moment."""

    id: UUID
    posted_nanos: int
    held_nanos: int
    last_entry_id: int


class Books:
    """The rows of one account.

    Args:
        url: Of the database.
        account: Slug of the consumer.
    """

    def __init__(self, url: str, account: str) -> None:
        self._url = url
        self._account = account

    def read_wallet(self) -> Wallet:
        """Its balance, what is reserved of it, and its newest entry."""
        query = """
            SELECT w.id, w.posted_nanos, w.held_nanos, coalesce((SELECT max(e.id)
                FROM billing_transferentry e WHERE e.ledger_account_id = w.id), 0)
            FROM billing_ledgeraccount w JOIN marketplace_account a ON a.id = w.holder_id
            WHERE w.kind = 'wallet' AND a.slug = %s"""
        (row,) = self._fetch(query, [self._account])
        return Wallet(*row)

    def list_usages(self, key_ids: Sequence[UUID]) -> list[Usage]:
        """All usage events of some API keys.

        A key that the gateway made for a request without one is none of the client's: such
        requests are told apart by their fingerprint.
        """
        query = """
            SELECT u.prediction_id, u.gross_nanos, u.transfer_id,
                CASE WHEN r.idempotency_key NOT LIKE chr(31) || '%%' THEN r.idempotency_key END,
                CASE WHEN r.idempotency_key LIKE chr(31) || '%%' THEN r.fingerprint END
            FROM billing_usageevent u
            LEFT JOIN inference_apirequest r ON r.prediction_id = u.prediction_id
            WHERE u.api_key_id = ANY(%s)"""
        return [Usage(*row) for row in self._fetch(query, [list(key_ids)])]

    def list_entries(self, since: Wallet) -> list[Entry]:
        """What was taken from the wallet after a moment."""
        query = """
            SELECT transfer_id, amount_nanos FROM billing_transferentry
            WHERE ledger_account_id = %s AND id > %s"""
        return [Entry(*row) for row in self._fetch(query, [since.id, since.last_entry_id])]

    def count_pending_holds(self) -> int:
        """Holds on the wallet that are neither booked nor released."""
        query = "SELECT count(*) FROM billing_hold WHERE ledger_account_id = %s AND state = %s"
        return int(self._fetch(query, [self.read_wallet().id, "pending"])[0][0])

    def list_failed_charges(self, key_ids: Sequence[UUID]) -> list[UUID]:
        """Predictions that failed and cost something."""
        query = """
            SELECT p.id FROM inference_prediction p
            LEFT JOIN billing_usageevent u ON u.prediction_id = p.id
            WHERE p.api_key_id = ANY(%s) AND p.state <> 'succeeded'
                AND (p.cost_nanos <> 0 OR u.prediction_id IS NOT NULL)"""
        return [row[0] for row in self._fetch(query, [list(key_ids)])]

    def _fetch(self, query: LiteralString, parameters: list[Any]) -> list[tuple[Any, ...]]:
        return database.fetch_from(self._url, query, parameters)
