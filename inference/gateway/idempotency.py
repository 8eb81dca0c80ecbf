"""A retry with the same Idempotency-Key gets the first prediction, and pays once.

A key is claimed before the run and completed by the statement that books the prediction, so
a crash between the two cannot leave one without the other. A claim has an end: when the
gateway that took it died, a retry takes it over, and should the first run come back to
life after all, it finds its claim gone and books nothing.

Some client libraries send no key when they retry, but count their attempts. Each first attempt of
theirs gets a key of our own, so that the same request is run and charged as often as it is
sent; an attempt that says it is a second one looks for the newest of the same request first.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from inference.gateway.config import (
    IDEMPOTENCY_KEY_LENGTH_MAX,
    IDEMPOTENCY_WINDOW_S,
    REPEATS_KNOWN_MAX,
    REPEATS_MAX,
    RETRY_WAITS_S,
    RETRY_WINDOW_S,
)
from inference.gateway.database import Database, DatabaseUnavailableError
from inference.gateway.errors import IdempotencyInFlightError, IdempotencyMismatchError
from inference.gateway.http import Headers
from marketplace.core.errors import BadRequestError

logger = logging.getLogger(__name__)

_HEADER = "idempotency-key"
# OpenAI's clients, Replicate's second one, and all others of the same generator.
_RETRY_HEADER = "x-stainless-retry-count"
_RETRY_COUNT_LENGTH_MAX = 4
# No caller's own key begins like that: those are printable.
IMPLIED_PREFIX = "\x1f"
# Client libraries sleep as long as they are told; most first runs end within a second.
_RETRY_MAX_S = 2

_FIND = """
    SELECT prediction_id, fingerprint, completed_at IS NOT NULL AS is_complete,
        extract(epoch FROM claimed_until - clock_timestamp())::float8 AS claim_left_s
    FROM inference_apirequest
    WHERE account_id = %(account_id)s AND idempotency_key = %(key)s
        AND created_at > clock_timestamp() - make_interval(secs => %(window_s)s)
"""
_FIND_IMPLIED = """
    SELECT prediction_id, completed_at IS NOT NULL AS is_complete
    FROM inference_apirequest
    WHERE account_id = %(account_id)s AND fingerprint = %(fingerprint)s
        AND (completed_at > clock_timestamp() - make_interval(secs => %(window_s)s)
            OR (completed_at IS NULL AND claimed_until > clock_timestamp()))
    ORDER BY created_at DESC LIMIT 1
"""
_TAKE = """
    INSERT INTO inference_apirequest AS known
        (account_id, idempotency_key, fingerprint, prediction_id, created_at, claimed_until)
    VALUES (%(account_id)s, %(key)s, %(fingerprint)s, %(prediction_id)s, clock_timestamp(),
        clock_timestamp() + make_interval(secs => %(ttl_s)s))
    ON CONFLICT (account_id, idempotency_key) DO UPDATE SET
        fingerprint = excluded.fingerprint, prediction_id = excluded.prediction_id,
        created_at = excluded.created_at, claimed_until = excluded.claimed_until,
        completed_at = NULL
    WHERE known.created_at <= clock_timestamp() - make_interval(secs => %(window_s)s)
        OR (known.completed_at IS NULL AND known.claimed_until < clock_timestamp()
            AND known.fingerprint = excluded.fingerprint)
    RETURNING prediction_id
"""
_RELEASE = """
    DELETE FROM inference_apirequest
    WHERE account_id = %s AND idempotency_key = %s AND prediction_id = %s AND completed_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run the request with this key."""

    account_id: UUID
    key: str
    fingerprint: bytes
    prediction_id: UUID
    # Made for a request without a key, whose client library would mark a retry of it.
    is_implied: bool = False


class Idempotency:
    """Claims keys and finds what was done under them."""

    def __init__(
        self, database: Database, *, claim_ttl_s: int, window_s: int = IDEMPOTENCY_WINDOW_S
    ) -> None:
        self.database = database
        self.claim_ttl_s = claim_ttl_s
        self.window_s = window_s
        self._repeats: dict[UUID, int] = {}

    def may_repeat(self, prediction_id: UUID) -> bool:
        """Whether what was paid for may be run once more, as its answer was kept nowhere.

        Each process counts for itself, and forgets when it has counted many.
        """
        count = self._repeats.get(prediction_id, 0)
        if count >= REPEATS_MAX:
            return False
        if len(self._repeats) >= REPEATS_KNOWN_MAX:
            self._repeats.clear()
        self._repeats[prediction_id] = count + 1
        return True

    async def find(self, account_id: UUID, key: str, fingerprint: bytes) -> UUID | None:
        """The prediction that was booked under a key; None if the request may run.

        Raises:
            IdempotencyMismatchError: The key was used for another request.
            IdempotencyInFlightError: Its first request is still running.
        """
        parameters = {"account_id": account_id, "key": key, "window_s": self.window_s}
        row = await self.database.fetch_one(_FIND, parameters)
        if row is None:
            return None
        if bytes(row["fingerprint"]) != fingerprint:
            raise IdempotencyMismatchError
        if row["is_complete"]:
            return UUID(str(row["prediction_id"]))
        if row["claim_left_s"] > 0:
            left_s = min(math.ceil(row["claim_left_s"]), _RETRY_MAX_S)
            raise IdempotencyInFlightError(retry_after_s=left_s)
        return None

    async def find_implied(self, claim: Claim) -> UUID | None:
        """The newest prediction of the same request within the last minute, if there is one.

        Raises:
            IdempotencyInFlightError: It is still running.
        """
        parameters = {
            "account_id": claim.account_id,
            "fingerprint": claim.fingerprint,
            "window_s": RETRY_WINDOW_S,
        }
        for wait_s in (*RETRY_WAITS_S, None):
            row = await self.database.fetch_one(_FIND_IMPLIED, parameters)
            if row is None:
                return None
            if row["is_complete"]:
                return UUID(str(row["prediction_id"]))
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        raise IdempotencyInFlightError(
            "The first attempt of this request is still running.", retry_after_s=1
        )

    async def take(self, claim: Claim) -> None:
        """Claim the key; exactly one of many callers succeeds.

        Raises:
            IdempotencyMismatchError, IdempotencyInFlightError: Someone else was first.
            DatabaseUnavailableError: It may have been taken or not: release it.
        """
        parameters: dict[str, Any] = {
            "account_id": claim.account_id,
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "prediction_id": claim.prediction_id,
            "ttl_s": self.claim_ttl_s,
            "window_s": self.window_s,
        }
        if not await self.database.write(_TAKE, parameters):
            await self.find(claim.account_id, claim.key, claim.fingerprint)
            # Booked, or given back, in this very moment: the next look will tell.
            raise IdempotencyInFlightError(retry_after_s=1)

    async def release(self, claim: Claim) -> None:
        """Give a key back whose run was not booked; a retry may run at once."""
        try:
            await self.database.write(_RELEASE, [claim.account_id, claim.key, claim.prediction_id])
        except DatabaseUnavailableError:
            logger.warning("a claim stays until it ends: prediction %s", claim.prediction_id)


def read_retry_count(headers: Headers) -> int | None:
    """How often a client library has sent this request before; None if it does not say."""
    if _RETRY_HEADER not in headers:
        return None
    text = headers.get(_RETRY_HEADER) or ""
    is_count = text.isascii() and text.isdigit() and len(text) <= _RETRY_COUNT_LENGTH_MAX
    return int(text) if is_count else None


def read_key(headers: Headers) -> str | None:
    """The key of an `Idempotency-Key` header, with or without the quotes of its draft.

    Raises:
        BadRequestError: It is empty, too long or not printable ASCII. A key that was
            overlooked would let a retry be charged.
    """
    if _HEADER not in headers:
        return None
    key = (headers.get(_HEADER) or "").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    check_key(key)
    return key


def check_key(key: str) -> None:
    """Refuse what is no key.

    Raises:
        BadRequestError: It is empty, too long or not printable ASCII.
    """
    is_printable = key.isascii() and key.isprintable()
    if not key or len(key) > IDEMPOTENCY_KEY_LENGTH_MAX or not is_printable:
        raise BadRequestError(
            f"An idempotency key has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable ASCII characters."
        )
