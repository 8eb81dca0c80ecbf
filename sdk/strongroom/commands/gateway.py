"""What all commands share that talk to a gateway: the key, the address, and how to send it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from strongroom.client import Client, is_private_path
from strongroom.config import ConfigError, ConfigFolder

_OPTIONS = (
    click.option(
        "--key", envvar="STRONGROOM_API_KEY", help="API key (sk_…), or set STRONGROOM_API_KEY."
    ),
    click.option(
        "--gateway", envvar="STRONGROOM_GATEWAY_URL", help="[default: the login's platform]"
    ),
    click.option("--allow-http", is_flag=True, help="Send the key without encryption."),
)


def gateway_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that `open_gateway` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_gateway(key: str | None, gateway: str | None, *, allow_http: bool) -> Client:
    """A client of the gateway.

    Raises:
        UsageError: There is no key.
        ConfigError: It is not known where the gateway is, or the way there is not encrypted.
    """
    if not key:
        raise click.UsageError("Missing option '--key' (or STRONGROOM_API_KEY).")
    if not gateway:
        gateway = ConfigFolder().load_profile().gateway_url
        if not gateway:
            raise ConfigError("gateway_unknown", "Name the gateway with --gateway.")
    if not (is_private_path(gateway) or allow_http):
        detail = f"{gateway} is not encrypted. Use https, or --allow-http if you must."
        raise ConfigError("url_insecure", detail)
    return Client(gateway, key)
