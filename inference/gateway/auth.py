"""Who is calling: API keys, and the short-lived tokens of the site's try-it form.

A key is looked up by its SHA-256, so no secret is kept in memory and none can be found by
measuring time. From here on only the key's id exists: neither log nor error shows a key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from inference.gateway.cache import Cache
from inference.gateway.config import KEY_TTL_S, PLAYGROUND_TTL_S
from inference.gateway.database import Database, DatabaseUnavailableError, Row
from inference.gateway.errors import (
    AccountSuspendedError,
    InvoicePastDueError,
    ModelNotAllowedError,
)
from inference.gateway.http import Request
from inference.gateway.origin import Networks, Origins
from marketplace.core import keys
from marketplace.core.address import Network, parse_network
from marketplace.core.clock import utc_now
from marketplace.core.errors import (
    AccountFrozenError,
    AuthenticationError,
    ForbiddenError,
    NetworkNotAllowedError,
)

logger = logging.getLogger(__name__)

PLAYGROUND_PREFIX = "sp_"
PREDICT, READ = "predict", "read"
# No key of ours is longer; what is longer is not hashed.
_CREDENTIAL_LENGTH_MAX = 1024
# `last_used_at` is for people: a minute's precision costs one write a minute and key.
_USED_INTERVAL_S = 60.0
_FLUSH_S = 1.0

_SELECT_ACCOUNT = """
    SELECT a.id AS account_id, a.slug, a.suspended_at IS NOT NULL AS is_suspended,
        a.frozen_at IS NOT NULL AS is_frozen,
        EXISTS (SELECT 1 FROM billing_postpaidterms t
            WHERE t.account_id = a.id AND t.paused_at IS NOT NULL) AS is_past_due,
        a.requests_per_minute AS account_requests_per_minute,
        a.units_per_minute AS account_units_per_minute,
        a.concurrency_max AS account_concurrency_max,
        a.retention_days
"""
_OF_KEY = """
    , k.id, k.mode, k.scopes, k.expires_at,
        k.requests_per_minute, k.units_per_minute, k.concurrency_max,
        num_nonnulls(k.budget_day_nanos, k.budget_month_nanos, k.budget_total_nanos) > 0
            AS has_budget, k.allowed_models, k.allowed_networks
    FROM marketplace_apikey k JOIN marketplace_account a ON a.id = k.account_id
    WHERE k.digest = %s AND k.revoked_at IS NULL
"""
_FIND_KEY = _SELECT_ACCOUNT + _OF_KEY
_FIND_KEY_BY_ID = _FIND_KEY.replace("k.digest = %s", "k.id = %s AND k.account_id = %s")
_FIND_ACCOUNT = _SELECT_ACCOUNT + " FROM marketplace_account a WHERE a.id = %s"
_NOTE_USED = """
    UPDATE marketplace_apikey SET last_used_at = now()
    WHERE id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - interval '30 seconds')
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """An account that calls, and what its key allows."""

    account_id: UUID
    slug: str
    key_id: UUID | None
    is_test: bool
    scopes: frozenset[str]
    expires_at: datetime | None
    is_suspended: bool
    is_frozen: bool = False
    source: str = "api"
    # Of the key, and of all keys of the account together; None where there is no such limit.
    requests_per_minute: int | None = None
    units_per_minute: int | None = None
    concurrency_max: int | None = None
    account_requests_per_minute: int | None = None
    account_units_per_minute: int | None = None
    account_concurrency_max: int | None = None
    # Whether the key may cost only so much. A test key costs nothing, whatever is set.
    has_budget: bool = False
    # `owner/name` of the models it runs, and the networks it works from; None for all.
    allowed_models: frozenset[str] | None = None
    allowed_networks: Networks | None = None
    # Whether an invoice was not paid in spite of reminders: nothing new is begun.
    is_past_due: bool = False
    # For how many days what goes in and comes out may be kept; 0 for not at all.
    retention_days: int = 0

    @property
    def keeps_nothing(self) -> bool:
        """Whether nothing may be kept of what goes in and comes out."""
        return self.retention_days == 0

    def require(self, *scopes: str) -> None:
        """Refuse a key that has none of the scopes.

        Raises:
            ForbiddenError: With the scopes that would do.
        """
        if self.scopes.isdisjoint(scopes):
            wanted = " or ".join(scopes)
            raise ForbiddenError(f"The key does not have the scope {wanted}.")

    def require_paid(self) -> None:
        """Refuse to begin a prediction for who has not paid for earlier ones.

        Raises:
            InvoicePastDueError: What runs already is finished all the same.
        """
        if self.is_past_due:
            raise InvoicePastDueError

    def require_model(self, model: str) -> None:
        """Refuse a model that the key was not made for.

        Raises:
            ModelNotAllowedError: The key has a list, without this model.
        """
        if self.allowed_models is not None and model not in self.allowed_models:
            raise ModelNotAllowedError(f"The key does not run {model}.")


class Authenticator:
    """Finds the caller of a request; a `Listener` of changes to keys and accounts."""

    def __init__(
        self,
        database: Database,
        *,
        playground_secret: str,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self.database = database
        self.origins = Origins(trusted_proxies)
        self._playground_key = playground_secret.encode()
        self.callers: Cache[bytes | UUID, Caller] = Cache(KEY_TTL_S)
        self._digests: dict[str, bytes] = {}
        self._noted_s: dict[UUID, float] = {}
        self._used: set[UUID] = set()

    async def authenticate(self, request: Request, *, allow_basic: bool) -> Caller:
        """The caller that the `Authorization` header of a request names.

        Args:
            request: Whose header, and where it comes from.
            allow_basic: Whether the key may stand as the password of Basic, which is all
                that some clients of /v2 can send.

        Raises:
            AuthenticationError: No key, or none that is valid now.
            AccountSuspendedError: The account may not call.
            AccountFrozenError: It may not until its payments are clear.
            NetworkNotAllowedError: The key does not work from there.
        """
        authorization = request.headers.get("authorization")
        credential = _read_credential(authorization, allow_basic=allow_basic)
        if credential.startswith(PLAYGROUND_PREFIX):
            caller = await self._find_playground(credential)
        else:
            caller = await self._find_key(credential)
        _require_valid(caller)
        if caller.allowed_networks is not None:
            self._check_network(request, caller.allowed_networks)
        if caller.key_id is not None:
            self._note_used(caller.key_id)
        return caller

    async def find_caller(self, account_id: UUID, key_id: UUID | None) -> Caller:
        """Who asked for something that is done later, as they are now.

        Args:
            account_id: Of whom.
            key_id: Whose budget and limits hold; None for those of the account alone.

        Raises:
            AuthenticationError: The key is not valid any more.
            AccountSuspendedError: The account may not call.
            AccountFrozenError: It may not until its payments are clear.
        """
        if key_id is None:
            caller = await self._find_account(account_id)
        else:
            row = await self.database.fetch_one(_FIND_KEY_BY_ID, [key_id, account_id])
            if row is None:
                raise AuthenticationError("The key was revoked.")
            caller = _make_caller(row)
        _require_valid(caller)
        return caller

    async def flush_used(self) -> None:
        """Write down for ever, once a second, which keys were used."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            if not self._used:
                continue
            used, self._used = self._used, set()
            try:
                await self.database.write(_NOTE_USED, [list(used)])
            except DatabaseUnavailableError:
                self._used |= used

    def on_change(self, table: str, row_id: str) -> None:
        """Forget what a changed row said."""
        if table == "marketplace_apikey":
            self.callers.drop(self._digests.pop(row_id, None))
        elif table in ("marketplace_account", "billing_postpaidterms"):
            self._forget_all()

    def on_listening(self) -> None:
        """Begin to keep callers."""
        self._digests.clear()
        self.callers.enable()

    def on_deaf(self) -> None:
        """Ask Postgres about every key until changes are heard again."""
        self._digests.clear()
        self.callers.disable()

    def _forget_all(self) -> None:
        self._digests.clear()
        self.callers.drop_all()

    def _check_network(self, request: Request, allowed: Networks) -> None:
        address = self.origins.find(request)
        if address is None:
            # A unix socket, or a header that says nothing: it could be anybody.
            raise NetworkNotAllowedError("The key works from some networks only.")
        if address not in allowed:
            raise NetworkNotAllowedError(f"The key does not work from {address}.")

    async def _find_key(self, text: str) -> Caller:
        digest = hashlib.sha256(text.encode()).digest()
        caller = self.callers.get(digest)
        if caller is not None:
            return caller
        if not keys.is_well_formed(text):
            raise AuthenticationError("The key is mistyped: its checksum does not fit.")
        generation = self.callers.generation
        row = await self.database.fetch_one(_FIND_KEY, [digest])
        if row is None:
            raise AuthenticationError("The key is unknown or was revoked.")
        caller = _make_caller(row)
        self.callers.put(digest, caller, generation=generation)
        self._digests[str(caller.key_id)] = digest
        return caller

    async def _find_playground(self, token: str) -> Caller:
        account_id, expires_at_s = self._open_token(token)
        if not time.time() < expires_at_s <= time.time() + PLAYGROUND_TTL_S:
            raise AuthenticationError("The token has expired.")
        return await self._find_account(account_id)

    async def _find_account(self, account_id: UUID) -> Caller:
        caller = self.callers.get(account_id)
        if caller is not None:
            return caller
        generation = self.callers.generation
        row = await self.database.fetch_one(_FIND_ACCOUNT, [account_id])
        if row is None:
            raise AuthenticationError("The account does not exist.")
        caller = Caller(
            key_id=None,
            is_test=False,
            scopes=frozenset({PREDICT, READ}),
            expires_at=None,
            source="web",
            **_of_account(row),
        )
        self.callers.put(account_id, caller, generation=generation)
        return caller

    def _open_token(self, token: str) -> tuple[UUID, float]:
        claims, _, mark = token.removeprefix(PLAYGROUND_PREFIX).partition(".")
        expected = hmac.new(self._playground_key, claims.encode(), hashlib.sha256).digest()
        try:
            if not hmac.compare_digest(_decode_base64url(mark), expected):
                raise AuthenticationError("The token is not ours.")
            document: Any = orjson.loads(_decode_base64url(claims))
            return UUID(document["account"]), float(document["exp"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AuthenticationError("The token is not ours.") from None

    def _note_used(self, key_id: UUID) -> None:
        now_s = time.monotonic()
        if now_s - self._noted_s.get(key_id, -_USED_INTERVAL_S) >= _USED_INTERVAL_S:
            if len(self._noted_s) > self.callers.entries_max:
                self._noted_s.clear()
            self._noted_s[key_id] = now_s
            self._used.add(key_id)


def _require_valid(caller: Caller) -> None:
    if caller.expires_at is not None and caller.expires_at <= utc_now():
        raise AuthenticationError("The key has expired.")
    if caller.is_suspended:
        raise AccountSuspendedError
    if caller.is_frozen:
        raise AccountFrozenError


def _make_caller(row: Row) -> Caller:
    """Of a key, with its account."""
    is_test = row["mode"] == "test"
    return Caller(
        key_id=row["id"],
        is_test=is_test,
        scopes=frozenset(row["scopes"]),
        expires_at=row["expires_at"],
        requests_per_minute=row["requests_per_minute"],
        units_per_minute=row["units_per_minute"],
        concurrency_max=row["concurrency_max"],
        has_budget=row["has_budget"] and not is_test,
        allowed_models=frozenset(row["allowed_models"]) or None,
        allowed_networks=_read_networks(row["allowed_networks"]),
        **_of_account(row),
    )


def _read_networks(texts: Sequence[str]) -> Networks | None:
    return Networks(map(parse_network, texts)) if texts else None


def _of_account(row: Row) -> dict[str, Any]:
    return {
        "account_id": row["account_id"],
        "slug": row["slug"],
        "is_suspended": row["is_suspended"],
        "is_frozen": row["is_frozen"],
        "is_past_due": row["is_past_due"],
        "retention_days": row["retention_days"],
        "account_requests_per_minute": row["account_requests_per_minute"],
        "account_units_per_minute": row["account_units_per_minute"],
        "account_concurrency_max": row["account_concurrency_max"],
    }


def _read_credential(authorization: str | None, *, allow_basic: bool) -> str:
    if not authorization:
        raise AuthenticationError("Send your key as `Authorization: Bearer <key>`.")
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip()
    if len(credential) > _CREDENTIAL_LENGTH_MAX or not credential.isascii():
        raise AuthenticationError("That is no key of ours.")
    known: Sequence[str] = ("bearer", "token")
    if scheme.lower() in known and credential:
        return credential
    if allow_basic and scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            password = ""
        if password:
            return password
    raise AuthenticationError("Send your key as `Authorization: Bearer <key>`.")


def _decode_base64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
