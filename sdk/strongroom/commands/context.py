"""What every command shares: the configuration, the platform, and how to end.

Exit codes: 0 for success, 1 if something was refused (by the platform, by a check on
this machine, or because nobody answered), 2 if the command was used wrongly.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from strongroom.client import ApiError, Transport, WebClient
from strongroom.config import ConfigError, ConfigFolder, Identity, Pin, Profile
from strongroom.errors import StrongroomError
from strongroom.inspect import PreflightError
from strongroom.listing import ListingError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64

# Answers go to stdout; what is said on the way goes to stderr.
notes = Console(stderr=True, highlight=False)
answers = Console(highlight=False)
# Wider than any row; a table takes only what its cells need.
_PIPE_WIDTH = 4096


class StrongroomGroup(click.Group):
    """Turns our errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StrongroomError as error:
            for line in _error_lines(error):
                click.echo(f"error: {line}", err=True)
            ctx.exit(2 if isinstance(error, ListingError) else 1)


def _error_lines(error: StrongroomError) -> list[str]:
    if isinstance(error, PreflightError):
        return [
            f"{one.code}: {one.path + ': ' if one.path else ''}{one.detail}"
            for one in error.refusals
        ]
    lines = [f"{error.code}: {_one_line(error.detail)}"]
    if isinstance(error, ApiError):
        lines += [
            f"{error.code}: {one.get('pointer', '')}: {_one_line(str(one.get('detail', '')))}"
            for one in error.errors[:20]
            if isinstance(one, dict)
        ]
        if error.request_id and error.status >= 500:
            lines[0] += f" (request {error.request_id})"
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def is_interactive() -> bool:
    """True if somebody can be asked."""
    return sys.stdin.isatty()


def say(text: str) -> None:
    """Tell the person something on the way; not part of the answer."""
    notes.print(text, markup=False)


def answer_table(table: Table) -> None:
    """Answer a person; in a pipe each row stays on one line, for programs such as grep."""
    console = answers if answers.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
    console.print(table)


def answer_json(value: Any) -> None:
    """Answer a program."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def load_web() -> tuple[ConfigFolder, Profile, WebClient]:
    """The configuration and the platform in use.

    Raises:
        ConfigError: `not_logged_in`.
    """
    config = ConfigFolder()
    profile = config.load_profile()
    return config, profile, WebClient(Transport(profile.web_url, profile.token))


def check_platform(config: ConfigFolder, profile: Profile, web: WebClient) -> tuple[bytes, ...]:
    """The pinned key, if the platform still shows it or its successor, and those before it.

    Raises:
        ConfigError: `platform_key_changed`.
    """
    shown = web.get_platform().get("platform_key") or {}
    public_key = decode_base64(shown.get("public_key"), size_bytes=signature.PUBLIC_KEY_BYTES)
    pin = config.pin_platform(profile.web_url, public_key, shown.get("successions"))
    if pin is Pin.FOLLOWED:
        say(f"Platform key {signature.fingerprint(public_key)} {pin.value}.")
    return config.list_pins(profile.web_url)


def register_signing_key(web: WebClient, account: str, identity: Identity) -> None:
    """Make this machine's key known, and say so if the account had another before."""
    answer = web.post_signing_key(account, encode_base64(identity.public_signing_key))
    if answer.get("state") == "new":
        say(
            f"The signing key {identity.fingerprint} is new for {account}: the version will be "
            "held in review until an owner confirms the key on the page of signing keys, and "
            "a reviewer has asked."
        )


def choose_account(profile: Profile, account: str | None) -> str:
    """The account that was named, else the one of the login."""
    chosen = account or profile.account
    if not chosen:
        raise ConfigError("account_missing", "Name the account with --account.")
    return chosen


as_json = click.option("--json", "is_json", is_flag=True, help="Answer in JSON.")
