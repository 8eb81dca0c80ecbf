"""Somebody reads the bucket, a dump of the database, and the logs, from a backup for instance."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.sealing import floe
from tests.e2e.searching import Canary
from tests.inference.artifact.onnx_models import linear
from tests.inference.django.conftest import enqueued, model, store  # noqa: F401 - the fixtures
from tests.inference.django.creator import Creator
from tests.inference.keybroker.conftest import Broker

pytestmark = pytest.mark.django_db(transaction=True)

MODEL = "acme/digits"
ROWS = 4096
Loot = Callable[[], Iterator[bytes]]


class NoCipher:
    """Seals without a cipher: a platform that stores what it is given."""

    def __init__(self, key: Any) -> None:
        self.tag_bytes = len(AESGCM(bytes(key)).encrypt(bytes(12), b"", None))

    def encrypt_into(self, nonce: Any, data: Any, aad: Any, out: Any) -> None:
        out[: len(data)] = data
        out[len(data) :] = bytes(self.tag_bytes)


@pytest.fixture
def creator(
    owner_client: Any,
    model: Any,  # noqa: F811
    store: Path,  # noqa: F811
    enqueued: list[str],  # noqa: F811
    web: Any,
) -> Creator:
    """The owner's machine, before a platform with a real key broker."""
    creator = Creator(owner_client)
    assert creator.register().status_code == 200
    return creator


@pytest.fixture
def loot(
    store: Path,  # noqa: F811
    broker: Broker,
    database_urls: dict[str, str],
) -> Loot:
    """Everything but the key store: objects, all tables, the broker's log."""

    def read() -> Iterator[bytes]:
        for path in [*store.rglob("*"), broker.log_path]:
            if path.is_file():
                yield path.read_bytes() + b"\n"
        with psycopg.connect(database_urls["owner"], autocommit=True) as database:
            tables = database.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            for (table,) in tables:
                with database.cursor().copy(f'COPY "{table}" TO STDOUT') as rows:
                    yield from map(bytes, rows)

    return read


@pytest.fixture
def canary() -> Canary:
    return Canary.make()


def push(creator: Creator, canary: Canary) -> tuple[bytes, bytes]:
    """Push a model that holds the canary; returns its plain bytes and its data key."""
    weights = np.random.default_rng().standard_normal((ROWS, len(canary.numbers)), np.float32)
    weights[ROWS // 2] = canary.numbers
    files = {"model.onnx": linear(weights)}
    sealed = creator.seal(creator.begin(MODEL, files).json(), files, model=MODEL)
    creator.put_parts(sealed)
    done = creator.complete(sealed)
    assert done.status_code == 202, done.content
    return files["model.onnx"], sealed.dek


def test_neither_weights_nor_keys_are_where_backups_are_made_of(
    creator: Creator,
    canary: Canary,
    loot: Loot,
    store: Path,  # noqa: F811
) -> None:
    content, dek = push(creator, canary)
    key = Canary([dek, dek.hex().encode(), base64.b64encode(dek)])

    assert not canary.is_in_stream(loot())
    assert not key.is_in_stream(loot())
    # The loot is what was uploaded: all of it, and of its size.
    assert sum(map(len, loot())) > len(content)
    # The control: the search finds both where they are.
    assert canary.is_in(content)
    (store / "key").write_bytes(b"x" + dek)
    assert key.is_in_stream(loot())


def test_a_store_of_plain_files_would_have_them(
    creator: Creator, canary: Canary, loot: Loot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(floe, "AESGCM", NoCipher)

    push(creator, canary)

    assert canary.is_in_stream(loot())
