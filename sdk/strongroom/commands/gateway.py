"""What all commands share that talk to a gateway: the key, the address, and how to send it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from strongroom.client import Client
from strongroom.commands.api_key import allow_http_option, check_way, key_option, need_key
from strongroom.config import ConfigError, ConfigFolder

_OPTIONS = (
    key_option,
    click.option(
        "--gateway", envvar="STRONGROOM_GATEWAY_URL", help="[default: the login's platform]"
    ),
    allow_http_option,
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
    key = need_key(key)
    if not gateway:
        gateway = ConfigFolder().load_profile().gateway_url
        if not gateway:
            raise ConfigError("gateway_unknown", "Name the gateway with --gateway.")
    check_way(gateway, allow_http=allow_http)
    return Client(gateway, key)
