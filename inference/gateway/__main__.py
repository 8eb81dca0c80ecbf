"""Run one gateway.

Run: python -m inference.gateway

Settings are read before anything is started, so that a wrong one ends this process with its
name. Then granian takes this process' place, with a drain before its stop: it is the one that
gets the signals.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from inference.gateway.closing import read_drain_s
from inference.gateway.config import SERVER_OPTIONS, GatewayConfig
from marketplace.core import schema
from marketplace.core.env import SettingError
from marketplace.core.listen import env_listen
from marketplace.core.logs import read_format, read_level

LISTEN_DEFAULT = "127.0.0.1:8001"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become granian; exit 2 if the settings are wrong, and as `schema.Fit` has it."""
    argparse.ArgumentParser(
        prog="python -m inference.gateway",
        description="The data plane. Settings come from the environment (docs/operations.md).",
    ).parse_args(arguments)
    try:
        config = GatewayConfig.from_env()
        # Read by granian's worker, when it is too late for a short answer.
        read_level()
        read_format()
        read_drain_s()
        schema_wait_s = schema.read_wait_s()
        command = serve_command()
    except SettingError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)
    schema.check_at_start("gateway", config.database_url, schema_wait_s)
    os.execv(sys.executable, command)  # noqa: S606 - a fixed program, and no shell


def serve_command() -> list[str]:
    """One worker of granian: its numbers and its connections are those of one process."""
    host, port = env_listen("STRONGROOM_GATEWAY_LISTEN", LISTEN_DEFAULT)
    return [
        *(sys.executable, "-P", "-m", "inference.gateway.server", "--interface", "rsgi"),
        *("--host", host, "--port", str(port), "--workers", "1", "--no-ws", "--http", "1"),
        *SERVER_OPTIONS,
        "inference.gateway.app:app",
    ]


if __name__ == "__main__":
    main()
