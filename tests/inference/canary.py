"""Look for a text in all that is kept: every table, all of Redis, every file of some folders."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import redis
from django.db import connection

from tests import servers
from tests.inference.storing import list_objects


def find_canary(canary: str, folders: Iterable[Path] = ()) -> list[str]:
    """Where it is: names of tables, keys of Redis, paths of files."""
    return [*_in_tables(canary), *_in_redis(canary), *_in_files(canary, folders)]


def _in_tables(canary: str) -> list[str]:
    # As rows are written out, octets are in hex.
    patterns = [f"%{one}%" for one in (canary, canary.encode().hex(), _in_base64(canary))]
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(
                f'SELECT 1 FROM "{table}" t WHERE t::text LIKE ANY(%s) LIMIT 1',
                [patterns],
            )
            if cursor.fetchone():
                found.append(table)
    return found


def _in_redis(canary: str) -> list[str]:
    wanted = canary.encode()
    with redis.Redis.from_url(servers.provide().redis_url) as client:
        # A dump holds what a key has, of whatever type; short texts are not packed in it.
        return [
            key.decode(errors="replace")
            for key in client.scan_iter(count=1000)
            if wanted in key or wanted in (client.dump(key) or b"")
        ]


def _in_files(canary: str, folders: Iterable[Path]) -> list[str]:
    paths = [path for folder in folders for path in list_objects(folder)]
    return [str(path) for path in paths if canary.encode() in path.read_bytes()]


def _in_base64(canary: str) -> str:
    # What lies in the middle of another text may begin at any of three places; this one is ours.
    return base64.b64encode(canary.encode()).decode().rstrip("=")
