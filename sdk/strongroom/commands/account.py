"""Log in and out, and see who one is."""

from __future__ import annotations

import platform as machine
from typing import Any

import click
from rich.table import Table

from strongroom.client import ApiError, Transport, WebClient, check_url, is_private_path
from strongroom.commands.context import (
    answer_json,
    answer_table,
    as_json,
    is_interactive,
    load_web,
    say,
)
from strongroom.config import ConfigError, ConfigFolder, Pin, Profile
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.errors import CanonicalError


@click.command()
@click.option("--url", required=True, help="Address of the platform's web site.")
@click.option("--email", help="Log in with a password. Asked for if left out.")
@click.option(
    "--password",
    envvar="STRONGROOM_PASSWORD",
    help="Better left to the prompt or to STRONGROOM_PASSWORD: others see command lines.",
)
@click.option("--code", help="Of your authenticator app, or a recovery code, if you have one.")
@click.option("--token", envvar="STRONGROOM_TOKEN", help="Use an existing token (srt_…) instead.")
@click.option("--account", help="The account to act for, if there are several.")
@click.option("--fingerprint", help="Refuse any other platform key than this one (SHA256:…).")
@click.option(
    "--allow-http", is_flag=True, help="Send secrets to another machine without encryption."
)
@as_json
def login(
    url: str,
    email: str | None,
    password: str | None,
    code: str | None,
    token: str | None,
    account: str | None,
    fingerprint: str | None,
    allow_http: bool,
    is_json: bool,
) -> None:
    """Log in to a platform and pin its key.

    The key signs what models are sealed to. It is pinned when it is first seen; compare
    the fingerprint with the one on the platform's site. A platform that shows another
    key later is refused, unless the pinned key has named it as its successor.
    """
    web_url = check_url(url)
    if not (is_private_path(web_url) or allow_http):
        detail = f"{web_url} is not encrypted. Use https, or --allow-http if you must."
        raise ConfigError("url_insecure", detail)
    config = ConfigFolder()
    described = WebClient(Transport(web_url)).get_platform()
    public_key = _read_platform_key(described, fingerprint)
    pin = config.pin_platform(web_url, public_key, described["platform_key"].get("successions"))
    if token is None:
        token, account = _trade_password(web_url, email, password, account, code)
    me = WebClient(Transport(web_url, token)).get_me()
    profile = Profile(
        web_url=web_url,
        gateway_url=str(described.get("gateway_url") or ""),
        token=token,
        account=_pick_account(me, account),
        email=str(me.get("email") or ""),
    )
    config.save_profile(profile)
    shown = signature.fingerprint(public_key)
    if is_json:
        answer_json(_profile_json(profile, shown) | {"is_new_key": pin is not Pin.SAME})
        return
    say(f"Platform key {shown} {pin.value}.")
    say(f"Logged in to {web_url} as {profile.email}, account {profile.account}.")


def _read_platform_key(described: dict[str, Any], wanted: str | None) -> bytes:
    try:
        key = described["platform_key"]
        public_key = decode_base64(key["public_key"], size_bytes=signature.PUBLIC_KEY_BYTES)
        is_honest = key["fingerprint"] == signature.fingerprint(public_key)
    except (KeyError, TypeError, CanonicalError):
        is_honest = False
    if not is_honest:
        raise ApiError("platform_key_invalid", "The platform does not show a usable key.")
    shown = signature.fingerprint(public_key)
    if wanted is not None and wanted != shown:
        raise ConfigError("platform_key_changed", f"The platform shows the key {shown}.")
    return public_key


def _trade_password(
    web_url: str,
    email: str | None,
    password: str | None,
    account: str | None,
    code: str | None,
) -> tuple[str, str | None]:
    if not is_interactive():
        if not email:
            raise click.UsageError("Missing option '--email' (or '--token').")
        if not password:
            raise click.UsageError("Missing option '--password' (or STRONGROOM_PASSWORD).")
    email = email or click.prompt("Email", err=True)
    password = password or click.prompt("Password", hide_input=True, err=True)
    name = f"strongroom on {machine.node() or 'a computer'}"[:80]
    client = WebClient(Transport(web_url))
    try:
        answer = client.login(str(email), str(password), name, code=code)
    except ApiError as error:
        if error.code != "second_factor_required" or code or not is_interactive():
            raise
        code = str(click.prompt("Code of your authenticator app, or a recovery code", err=True))
        answer = client.login(str(email), str(password), name, code=code)
    chosen = answer.get("account")
    if isinstance(chosen, dict):
        chosen = chosen.get("slug")
    return str(answer["token"]), account or (str(chosen) if chosen else None)


def _pick_account(me: dict[str, Any], account: str | None) -> str:
    slugs = [str(one.get("slug")) for one in me.get("accounts") or []]
    if account is None:
        return slugs[0] if slugs else ""
    if account not in slugs:
        raise ConfigError("account_unknown", f"You may act for: {', '.join(slugs) or 'none'}.")
    return account


def _profile_json(profile: Profile, fingerprint: str) -> dict[str, Any]:
    return {
        "web_url": profile.web_url,
        "gateway_url": profile.gateway_url,
        "email": profile.email,
        "account": profile.account,
        "platform_key_fingerprint": fingerprint,
    }


@click.command()
def logout() -> None:
    """Forget the token. Pinned keys and your own keys stay."""
    say("Logged out." if ConfigFolder().forget_profile() else "Nobody was logged in.")


@click.command()
@as_json
def whoami(is_json: bool) -> None:
    """Show the platform, the login and your signing key."""
    config, profile, web = load_web()
    me = web.get_me()
    pinned = config.find_pin(profile.web_url)
    value = _profile_json(profile, signature.fingerprint(pinned) if pinned else "")
    value["accounts"] = me.get("accounts") or []
    value["signing_key_fingerprint"] = config.load_identity().fingerprint
    if is_json:
        answer_json(value)
        return
    table = Table(box=None, show_header=False)
    slugs = ", ".join(f"{one.get('slug')} ({one.get('role')})" for one in value["accounts"])
    for name, shown in (
        ("platform", profile.web_url),
        ("platform key", value["platform_key_fingerprint"]),
        ("email", str(me.get("email") or "")),
        ("account", profile.account),
        ("accounts", slugs),
        ("signing key", value["signing_key_fingerprint"]),
    ):
        table.add_row(name, shown)
    answer_table(table)
