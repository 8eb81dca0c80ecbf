"""Run the stand-in for Stripe: `python -m fakestripe --port 4010 --state state.sqlite3`.

One process and no workers, so that its pid is all there is to kill.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from fakestripe.app import build_app
from fakestripe.config import Config, ConfigError
from fakestripe.contract import Contract
from fakestripe.openapi import SpecificationError


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 if it cannot start as told."""
    parser = argparse.ArgumentParser(prog="fakestripe", description="A stand-in for Stripe.")
    parser.add_argument("--port", type=int, help="instead of FAKESTRIPE_PORT")
    parser.add_argument("--state", type=Path, help="instead of FAKESTRIPE_STATE")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = Config.from_env(os.environ, port=options.port, state=options.state)
        contract = Contract.load(config.state.parent)
    except (ConfigError, SpecificationError) as error:
        print(f"fakestripe: {error}", file=sys.stderr)
        return 2
    asyncio.run(_serve(config, contract))
    return 0


async def _serve(config: Config, contract: Contract) -> None:
    server = Server(
        build_app(config, contract),
        address="127.0.0.1",
        port=config.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    logging.getLogger("fakestripe").info("listening on 127.0.0.1:%d", config.port)
    await server.serve()


if __name__ == "__main__":
    sys.exit(main())
