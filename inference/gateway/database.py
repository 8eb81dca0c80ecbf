"""The gateway's way to Postgres: a small pool, and errors in our own words.

Holds and reads go through the pool in autocommit mode, one statement each. They do not
wait for the disk: a hold that a crash of Postgres takes back is missed by its settle, which
then books nothing. What books, waits; see `inference.gateway.meter`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from inference.gateway.config import (
    POOL_SIZE_MAX,
    POOL_WAIT_S,
    STATEMENT_LIMIT_S,
    STATEMENT_TIMEOUT_S,
)
from marketplace.core.errors import UnavailableError

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Parameters = Sequence[Any] | Mapping[str, Any]
# The peer of a connection that was cut must not be waited for longer than a caller waits.
_CONNECT: dict[str, Any] = {"connect_timeout": 5, "application_name": "strongroom-gateway"}
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Keepalives are silent while sent octets are not acknowledged.
    "tcp_user_timeout": 15_000,
}

# A lock that is held for longer is somebody's mistake; the caller can try again.
_STATEMENT_TIMEOUT = f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000}"


class DatabaseUnavailableError(UnavailableError):
    """Postgres cannot be reached, or the connection broke: what it did is not known."""

    code = "database_unavailable"
    title = "The gateway cannot reach its database."

    def __init__(self) -> None:
        super().__init__(retry_after_s=1)


class Database:
    """A pool of autocommit connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] = AsyncConnectionPool(
            url,
            kwargs={
                **_CONNECT,
                **_KEEPALIVE,
                "autocommit": True,
                "row_factory": dict_row,
                "options": "-c synchronous_commit=off " + _STATEMENT_TIMEOUT,
            },
            min_size=1,
            max_size=POOL_SIZE_MAX,
            timeout=POOL_WAIT_S,
            reconnect_timeout=5,
            open=False,
        )

    async def open(self) -> None:
        """Begin to connect; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Give all connections back."""
        await self._pool.close(timeout=2)

    def count_connections(self) -> tuple[int, int, int]:
        """Connections in use, idle ones, and statements that wait for one."""
        stats = self._pool.get_stats()
        idle = stats.get("pool_available", 0)
        return stats.get("pool_size", 0) - idle, idle, stats.get("requests_waiting", 0)

    async def fetch_all(self, query: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of one reading statement; a broken connection is replaced once.

        Raises:
            DatabaseUnavailableError: There is no Postgres to ask.
        """
        try:
            return await self._run(query, parameters)
        except DatabaseUnavailableError:
            # After a restart of Postgres every idle connection is dead. Drop them together
            # instead of letting one request after the other find out.
            await self._pool.drain()
            return await self._run(query, parameters)

    async def fetch_one(self, query: str, parameters: Parameters = ()) -> Row | None:
        """The first row of one reading statement."""
        rows = await self.fetch_all(query, parameters)
        return rows[0] if rows else None

    async def write(self, query: str, parameters: Parameters = ()) -> list[Row]:
        """The rows of one writing statement, run once: its outcome may be unknown.

        Raises:
            DatabaseUnavailableError: It may have happened or not.
            psycopg.Error: Postgres refused it.
        """
        return await self._run(query, parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """Several statements that happen together or not at all.

        Raises:
            DatabaseUnavailableError: They may have happened or not.
            psycopg.Error: Postgres refused one of them.
        """
        try:
            async with (
                self._pool.connection() as connection,
                asyncio.timeout(STATEMENT_LIMIT_S),
                connection.transaction(),
            ):
                yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            logger.warning("database: %s", type(error).__name__)
            raise DatabaseUnavailableError from error
        except TimeoutError:
            logger.warning("database: no answer for %g s", STATEMENT_LIMIT_S)
            await self._pool.drain()
            raise DatabaseUnavailableError from None

    async def _run(self, query: str, parameters: Parameters) -> list[Row]:
        try:
            async with self._pool.connection() as connection, asyncio.timeout(STATEMENT_LIMIT_S):
                cursor = await connection.execute(query, parameters, prepare=True)
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            logger.warning("database: %s", type(error).__name__)
            raise DatabaseUnavailableError from error
        except TimeoutError:
            # A peer that does not even refuse: the other connections lead to it, too.
            logger.warning("database: no answer for %g s", STATEMENT_LIMIT_S)
            await self._pool.drain()
            raise DatabaseUnavailableError from None


async def connect(url: str, *, durable: bool) -> psycopg.AsyncConnection[Row]:
    """One autocommit connection outside the pool.

    Args:
        url: Of the database.
        durable: True where a commit must be on disk before anyone is told of it.
    """
    options = f"-c synchronous_commit={'on' if durable else 'off'} {_STATEMENT_TIMEOUT}"
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, options=options, **_CONNECT, **_KEEPALIVE
    )
