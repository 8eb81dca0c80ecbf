"""What an operator does with keys and nodes: `python -m inference.keybroker rotate-keks`."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import node_identity, queries
from inference.keybroker.app import KeyBroker
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.kms import Kms
from inference.keybroker.platform_keys import PlatformKeys
from inference.keybroker.rotation import Rotation
from inference.keybroker.upload_keys import UploadKeys
from marketplace.core.errors import MarketplaceError

# Does what the options say and tells it on stdout; returns the exit code.
Command = Callable[[KeyBrokerConfig, argparse.Namespace], Awaitable[int]]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add each command to a parser's, with its `Command` as the default of `run`."""
    signing = commands.add_parser(
        "rotate-signing-key",
        help="make a new key that signs the keys of uploads; the old one signs a statement that "
        "names it, which clients follow. A running broker uses it at once",
    )
    signing.set_defaults(run=_rotate_signing_key)
    keks = commands.add_parser(
        "rotate-keks",
        help="put a new key in place of each model's, and destroy the old one",
        description="Put a new key in place of each model's. Stored files and leases stay as they "
        "are; a run that was cut off is finished by the next.",
    )
    keks.add_argument(
        "--model", type=UUID, action="append", metavar="ID", help="only this one; may be repeated"
    )
    keks.set_defaults(run=lambda config, options: _rotate_keks(config, options.model))
    revoke = commands.add_parser(
        "revoke-node", help="put a node out for good: it gets no key and no certificate any more"
    )
    revoke.add_argument("name", help="the node's name")
    revoke.set_defaults(run=lambda config, options: _revoke_node(config, options.name))


async def _rotate_signing_key(config: KeyBrokerConfig, _: argparse.Namespace) -> int:
    broker = KeyBroker(config)
    async with await AsyncConnection.connect(config.database_url) as connection:
        await broker.platform.ensure(connection)
        described = await broker.platform.rotate(connection)
    print(json.dumps({name: described[name] for name in ("kid", "public_key", "fingerprint")}))
    return 0


async def _revoke_node(config: KeyBrokerConfig, name: str) -> int:
    async with await AsyncConnection.connect(config.database_url) as connection:
        count = await node_identity.revoke(connection, name)
    print(f"{name} is revoked." if count else f"No node of the name {name} has joined.")
    return 0 if count else 1


async def _rotate_keks(config: KeyBrokerConfig, model_ids: Sequence[UUID] | None) -> int:
    @asynccontextmanager
    async def connect() -> AsyncIterator[AsyncConnection]:
        async with await AsyncConnection.connect(config.database_url) as connection:
            yield connection

    kms = Kms(config.open_kms())
    rotation = Rotation(connect, kms, UploadKeys(kms, PlatformKeys(kms), config.suite))
    async with connect() as connection:
        known = await queries.list_models_with_keys(connection)
    chosen = known if model_ids is None else list(model_ids)
    pairs = lost = failed = 0
    for model_id in chosen:
        if model_id not in known:
            print(f"{model_id}: has no key")
            failed += 1
            continue
        try:
            moved = await rotation.rotate(model_id)
        except MarketplaceError as error:
            print(f"{model_id}: {error.code}: {error.detail}")
            failed += 1
            continue
        pairs, lost = pairs + moved.key_pairs, lost + moved.lost
        print(f"{model_id}: {moved.key_pairs} key pairs under {moved.kek_ref}")
    done = len(chosen) - failed
    print(f"{done} models rotated, {pairs} key pairs moved, {lost} lost before, {failed} failed")
    return 1 if failed or lost else 0
