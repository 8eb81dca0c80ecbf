"""The key broker's HTTP interface; `server.py` gives it a socket and TLS.

Run: python -m inference.keybroker
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web
from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from inference.keybroker import leases, metrics, node_identity, release_log, shredding
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.errors import KmsUnavailableError
from inference.keybroker.kms import Kms, LocalKms
from inference.keybroker.node_ca import NodeAuthority
from inference.keybroker.peer import Peer
from inference.keybroker.platform_keys import PlatformKeys
from inference.keybroker.shredding import Shredder, ShredRequest
from inference.keybroker.upload_keys import UploadKeys
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
# Its sender needs milliseconds; one that is slower than this is given up.
BODY_TIMEOUT_S = 10.0
POOL_SIZE_MAX = 8
POOL_TIMEOUT_S = 5.0
# For a database that comes up at the same time; after it whoever started us tries again.
START_TIMEOUT_S = 60.0
START_RETRY_S = 0.5
# Requests that may wait for the KMS at the same time, each with a connection: the others of the
# pool are for renewals and the like, which a slow KMS must not keep waiting.
KMS_REQUESTS_MAX = 4
KMS_WAIT_S = 5.0
KMS_PATHS = frozenset({"/v1/upload-keys", "/v1/upload-keys/check", "/v1/leases", "/v1/shred"})

# What the web asks for, with its token.
WEB_PATHS = ("/v1/upload-keys", "/v1/release-log", "/v1/shred")
LEASE_PATH = re.compile(r"/v1/leases/([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})/(renew|release)")
Answer = dict[str, Any]
Handler = Callable[[AsyncConnection, dict[str, Any]], Awaitable[Answer]]
Action = Callable[[dict[str, Any]], Awaitable[Answer]]


class KeyBroker:
    """Routes requests; each but a shredding runs in one database transaction."""

    def __init__(self, config: KeyBrokerConfig) -> None:
        self.config = config
        self.kms = Kms(config.open_kms())
        if config.kms == "local":
            logger.warning("keys are held by the local provider: for single machines")
        self.platform = PlatformKeys(self.kms, _find_earlier_signing_key(config))
        self.keys = UploadKeys(self.kms, self.platform, config.suite)
        self._pool: AsyncConnectionPool | None = None
        self._kms_slots = asyncio.Semaphore(KMS_REQUESTS_MAX)

    async def start(self) -> NodeAuthority:
        """Open the pool and make the platform's keys, if this is the first start.

        Raises:
            UnavailableError: The database did not answer in time.
        """
        self._pool = AsyncConnectionPool(
            self.config.database_url,
            min_size=1,
            max_size=POOL_SIZE_MAX,
            timeout=POOL_TIMEOUT_S,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )
        await self._pool.open()
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            try:
                async with self._pool.connection() as connection:
                    await self.platform.ensure(connection)
                    return await self.platform.node_authority(connection)
            except (OperationalError, PoolTimeout) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError from error
                await asyncio.sleep(START_RETRY_S)

    async def stop(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            await self._pool.close()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        began_s = time.monotonic()
        request_id = to_public(new_id())
        status, content_type, headers = 200, "application/json", {}
        code = metrics.GRANTED
        try:
            document = await self._answer(request)
        except MarketplaceError as error:
            status, content_type, code = error.http_status, CONTENT_TYPE, error.code
            document, headers = problem(error, request_id=request_id), problem_headers(error)
            logger.info("%s %s %s %s", request.method, request.path, status, error.code)
        except Exception:
            logger.exception("request %s failed", request_id)
            failure = MarketplaceError()
            status, content_type, code = failure.http_status, CONTENT_TYPE, failure.code
            document = problem(failure, request_id=request_id)
        metrics.observe(request.path, status, code, time.monotonic() - began_s)
        return web.Response(
            status=status,
            body=orjson.dumps(document),
            headers={"Content-Type": content_type, "X-Request-Id": request_id, **headers},
        )

    async def _answer(self, request: web.Request) -> Answer:
        method, path = request.method, request.path
        if method == "GET":
            return await self._read(path)
        peer = Peer.of(request.transport, is_checked=self.config.tls is not None)
        act = self._find_action(path, peer) if method == "POST" else None
        if act is None:
            raise NotFoundError
        if path.startswith(WEB_PATHS):
            self._check_token(request.headers.get("authorization") or "")
        body = await _read_json(request)
        if path not in KMS_PATHS:
            return await act(body)
        async with self._kms_slot():
            return await act(body)

    @asynccontextmanager
    async def _kms_slot(self) -> AsyncIterator[None]:
        """Wait for a turn at the KMS, before a connection is taken for it."""
        try:
            async with asyncio.timeout(KMS_WAIT_S):
                await self._kms_slots.acquire()
        except TimeoutError as error:
            raise KmsUnavailableError("Too many requests wait for the key store.") from error
        try:
            yield
        finally:
            self._kms_slots.release()

    async def _shred(self, body: dict[str, Any]) -> Answer:
        """In steps with a transaction each, none of which waits for the KMS for long."""
        assert self._pool is not None
        request = ShredRequest.parse(body)
        shredder = Shredder(self._pool.connection, self.kms, self.keys)
        try:
            proofs = await shredder.shred(request)
        except (OperationalError, PoolTimeout) as error:
            raise UnavailableError(retry_after_s=1) from error
        return {"shreds": [shredding.answer(one) for one in proofs]}

    async def _read(self, path: str) -> Answer:
        """What anybody may ask for."""
        readers: dict[str, Callable[[AsyncConnection], Awaitable[Answer]]] = {
            "/health": _probe,
            "/v1/platform-key": self.platform.describe,
            "/v1/node-ca": self._describe_authority,
        }
        reader = readers.get(path)
        if reader is None:
            raise NotFoundError
        return await self._in_transaction(lambda connection, _: reader(connection), {})

    def _find_action(self, path: str, peer: Peer) -> Action | None:
        if path == "/v1/shred":
            return self._shred
        handler = self._find_handler(path, peer)
        return handler and partial(self._in_transaction, handler)

    def _find_handler(self, path: str, peer: Peer) -> Handler | None:
        if match := LEASE_PATH.fullmatch(path):
            action = {"renew": leases.renew, "release": leases.release}[match[2]]
            lease_id = UUID(match[1])
            return lambda connection, body: action(connection, self.keys, lease_id, body, peer)
        if path == "/v1/leases":
            return lambda connection, body: self._grant(connection, body, peer)
        return {
            "/v1/upload-keys": self._make_upload_key,
            "/v1/upload-keys/check": self._check_upload_key,
            "/v1/leases/challenge": self._challenge,
            "/v1/release-log/checkpoint": self._checkpoint,
            "/v1/nodes/join": self._join,
            "/v1/nodes/renew": self._renew_certificate,
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
        suites = body.get("suites")
        if not (suites is None or isinstance(suites, list)):
            raise InvalidInputError("suites must be a list.")
        return await self.keys.make(connection, expires_at=expires_at, suites=suites, **identifiers)

    async def _check_upload_key(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        await self.keys.check(connection, leases.read_identifier(body, "artifact_id"))
        return {"ok": True}

    async def _challenge(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        return await leases.challenge(connection, leases.read_identifier(body, "node_id"))

    async def _grant(self, connection: AsyncConnection, body: dict[str, Any], peer: Peer) -> Answer:
        return await leases.grant(connection, self.config, self.keys, body, peer)

    async def _describe_authority(self, connection: AsyncConnection) -> Answer:
        return {"certificate": (await self.platform.node_authority(connection)).certificate}

    async def _join(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        authority = await self.platform.node_authority(connection)
        return await node_identity.join(connection, authority, body)

    async def _renew_certificate(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        authority = await self.platform.node_authority(connection)
        node_id = leases.read_identifier(body, "node_id")
        return await node_identity.renew(connection, authority, body, node_id)

    async def _checkpoint(self, connection: AsyncConnection, body: dict[str, Any]) -> Answer:
        artifact_id = leases.read_identifier(body, "artifact_id")
        signer = await self.platform.signer(connection)
        return await release_log.checkpoint(connection, signer, artifact_id)


def _find_earlier_signing_key(config: KeyBrokerConfig) -> bytes | None:
    """Homes of before kept it beside the KMS's keys, and clients have pinned it."""
    if config.kms != "local" or not (config.kms_dir / "signing.key").exists():
        return None
    return LocalKms(config.kms_dir).signing_key()


async def _probe(connection: AsyncConnection) -> Answer:
    await connection.execute("SELECT 1")
    return {"status": "ok"}


async def _read_json(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise PayloadTooLargeError
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise PayloadTooLargeError
    except TimeoutError:
        raise BadRequestError("The body did not come in time.") from None
    try:
        document = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        raise BadRequestError("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise BadRequestError("The body is not a JSON object.")
    return document
