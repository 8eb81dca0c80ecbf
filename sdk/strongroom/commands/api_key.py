"""The key of commands that run models, and how it may be sent."""

from __future__ import annotations

import click

from strongroom.client import is_private_path
from strongroom.config import ConfigError

key_option = click.option(
    "--key", envvar="STRONGROOM_API_KEY", help="API key (sk_…), or set STRONGROOM_API_KEY."
)
allow_http_option = click.option(
    "--allow-http", is_flag=True, help="Send the key without encryption."
)


def need_key(key: str | None) -> str:
    """The key.

    Raises:
        UsageError: There is none.
    """
    if not key:
        raise click.UsageError("Missing option '--key' (or STRONGROOM_API_KEY).")
    return key


def check_way(url: str, *, allow_http: bool) -> None:
    """Refuse to send a key where others may read it.

    Raises:
        ConfigError: The way there is not encrypted.
    """
    if not (is_private_path(url) or allow_http):
        detail = f"{url} is not encrypted. Use https, or --allow-http if you must."
        raise ConfigError("url_insecure", detail)
