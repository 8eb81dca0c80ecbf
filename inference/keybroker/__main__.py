"""Run the key broker, or change what it keeps.

Run: python -m inference.keybroker [serve | rotate-signing-key | rotate-keks | revoke-node NAME]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from psycopg import OperationalError

from inference.keybroker.commands import add_commands
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.server import serve
from marketplace.core import logs, schema
from marketplace.core.env import SettingError
from marketplace.core.errors import MarketplaceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    options = _parse(arguments)
    # What fails on a key must not say so in words that hold one.
    logs.configure(hides_errors=True)
    try:
        return asyncio.run(options.run(KeyBrokerConfig.from_env(), options))
    except (SettingError, MarketplaceError, OperationalError, OSError) as error:
        print(f"keybroker: {error}", file=sys.stderr)
        return 2


async def _serve(config: KeyBrokerConfig, _: argparse.Namespace) -> int:
    # Nothing else runs in this loop yet.
    schema.check_at_start("keybroker", config.database_url, schema.read_wait_s())
    await serve(config)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m inference.keybroker",
        description="The key broker. Settings come from the environment (docs/operations.md).",
    )
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers()
    commands.add_parser("serve", help="run until SIGTERM (this is what happens without a command)")
    add_commands(commands)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
