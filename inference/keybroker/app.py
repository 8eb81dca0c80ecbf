"""The key broker's HTTP interface, as an RSGI application.

Run: granian --interface rsgi inference.keybroker.app:app
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from inference.keybroker import leases
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.kms import LocalKms
from inference.keybroker.upload_keys import UploadKeys
from marketplace.core import logs
from marketplace.core.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidInputError,
    MarketplaceError,
    NotFoundError,
    PayloadTooLargeError,
    UnavailableError,
)
from marketplace.core.ids import new_id, to_public
from marketplace.core.problem import CONTENT_TYPE, problem, problem_headers

logger = logging.getLogger(__name__)

# The largest request is one for a lease: some hundred bytes, plus evidence.
BODY_BYTES_MAX = 256 * 1024
POOL_SIZE_MAX = 4
POOL_TIMEOUT_S = 5.0

LEASE_PATH = re.compile(r"/v1/leases/([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})/(renew|release)")
Answer = dict[str, Any]
Handler = Callable[[AsyncConnection, dict[str, Any]], Awaitable[Answer]]


class KeyBroker:
    """Routes requests; each runs in one database transaction."""

    def __init__(self, config: KeyBrokerConfig | None = None) -> None:
        self._config = config
        self._pool: AsyncConnectionPool | None = None
        self._keys: UploadKeys | None = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the settings and open the key store; granian calls it once per worker."""
        # What fails on a key must not say so in words that hold one.
        logs.configure(hides_errors=True)
        self._config = self._config or KeyBrokerConfig.from_env()
        kms = LocalKms(self._config.kms_dir)
        self._keys = UploadKeys(kms, kms.signing_key(), self._config.suite)
        logger.warning("keys are held by the local provider: for development and single machines")
        loop.run_until_complete(self._open_pool())

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the pool."""
        if self._pool is not None:
            loop.run_until_complete(self._pool.close())

    async def _open_pool(self) -> None:
        self._pool = AsyncConnectionPool(
            self.config.database_url,
            min_size=1,
            max_size=POOL_SIZE_MAX,
            timeout=POOL_TIMEOUT_S,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )
        await self._pool.open()

    @property
    def config(self) -> KeyBrokerConfig:
        """The settings; present once the worker has started."""
        assert self._config is not None
        return self._config

    @property
    def keys(self) -> UploadKeys:
        """The key pairs of uploads; present once the worker has started."""
        assert self._keys is not None
        return self._keys

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        request_id = to_public(new_id())
        status, content_type, headers = 200, "application/json", {}
        try:
            document = await self._answer(scope, protocol)
        except MarketplaceError as error:
            status, content_type = error.http_status, CONTENT_TYPE
            document, headers = problem(error, request_id=request_id), problem_headers(error)
            logger.info("%s %s %s %s", scope.method, scope.path, status, error.code)
        except Exception:
            logger.exception("request %s failed", request_id)
            failure = MarketplaceError()
            status, content_type = failure.http_status, CONTENT_TYPE
            document = problem(failure, request_id=request_id)
        protocol.response_bytes(
            status,
            [("content-type", content_type), ("x-request-id", request_id), *headers.items()],
            orjson.dumps(document),
        )

    async def _answer(self, scope: Any, protocol: Any) -> Answer:
        method, path = scope.method, scope.path
        if method == "GET" and path == "/health":
            return await self._health()
        if method == "GET" and path == "/v1/platform-key":
            return self.keys.platform_key()
        handler = self._find_handler(path) if method == "POST" else None
        if handler is None:
            raise NotFoundError
        if path.startswith("/v1/upload-keys"):
            self._check_token(scope.headers.get("authorization") or "")
        body = await _read_json(scope, protocol)
        return await self._in_transaction(handler, body)

    def _find_handler(self, path: str) -> Handler | None:
        if match := LEASE_PATH.fullmatch(path):
            action = {"renew": leases.renew, "release": leases.release}[match[2]]
            lease_id = UUID(match[1])
            return lambda connection, body: action(connection, lease_id, body)
        return {
            "/v1/upload-keys": self._make_upload_key,
            "/v1/upload-keys/check": self._check_upload_key,
            "/v1/leases/challenge": self._challenge,
            "/v1/leases": self._grant,
        }.get(path)

    async def _in_transaction(self, handler: Handler, body: dict[str, Any]) -> Answer:
        """Run a handler; a refusal of ours commits too, for its row in the release log."""
        assert self._pool is not None
        try:
            async with self._pool.connection() as connection:
                try:
                    return await handler(connection, body)
                except MarketplaceError as error:
                    refusal = error
            raise refusal
        except (OperationalError, PoolTimeout) as error:
            raise UnavailableError(retry_after_s=1) from error

    def _check_token(self, authorization: str) -> None:
        expected = f"Bearer {self.config.token}"
        if not hmac.compare_digest(authorization.encode(), expected.encode()):
            raise AuthenticationError

    async def _health(self) -> Answer:
        async def probe(connection: AsyncConnection, body: dict[str, Any]) -> Answer:
            await connection.execute("SELECT 1")
            return {"status": "ok"}

        return await self._in_transaction(probe, {})

    async def _make_upload_key(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        try:
            expires_at = datetime.fromisoformat(body["expires_at"])
            identifiers = {
                name: UUID(body[name])
                for name in ("upload_id", "artifact_id", "account_id", "model_id")
            }
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InvalidInputError("Four UUIDs and an expiry are needed.") from None
        if expires_at.tzinfo is None:
            raise InvalidInputError("expires_at needs a time zone.")
        return await self.keys.make(connection, expires_at=expires_at, **identifiers)

    async def _check_upload_key(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        await self.keys.check(connection, leases.read_identifier(body, "artifact_id"))
        return {"ok": True}

    async def _challenge(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        return await leases.challenge(connection, leases.read_identifier(body, "node_id"))

    async def _grant(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        return await leases.grant(connection, self.config, self.keys, body)


async def _read_json(scope: Any, protocol: Any) -> dict[str, Any]:
    length = scope.headers.get("content-length") or "0"
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        raise PayloadTooLargeError
    body = bytearray()
    async for chunk in protocol:
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise PayloadTooLargeError
    try:
        document = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        raise BadRequestError("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise BadRequestError("The body is not a JSON object.")
    return document


app = KeyBroker()
