"""The keys that sign an account's manifests: listed and revoked."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from strongroom.commands.context import (
    answer_json,
    answer_table,
    as_json,
    choose_account,
    is_interactive,
    load_web,
    say,
)


@click.group("signing-key")
def signing_keys() -> None:
    """Keys that sign what you push: list, revoke."""


@signing_keys.command("list")
@click.option("--account", help="Another account than the login's.")
@as_json
def list_signing_keys(account: str | None, is_json: bool) -> None:
    """List the signing keys of an account; this machine's own is marked with a star.

    A key that is "new" is held back in review until an owner confirms it.
    """
    config, profile, web = load_web()
    found = web.list_signing_keys(choose_account(profile, account))
    if is_json:
        answer_json(found)
        return
    own = config.load_identity().fingerprint if config.has_identity else ""
    table = Table("id", "", "fingerprint", "state", "registered", "by", "last used for", box=None)
    for one in found:
        fingerprint = str(one.get("fingerprint") or "")
        table.add_row(
            escape(str(one.get("id") or "")),
            "*" if fingerprint == own else "",
            escape(fingerprint),
            escape(str(one.get("state") or "")),
            escape(str(one.get("created_at") or "")[:16].replace("T", " ")),
            escape(str(one.get("registered_by") or "")),
            escape(str(one.get("last_used_for") or "never")),
        )
    answer_table(table)


@signing_keys.command("revoke")
@click.argument("key_id")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@as_json
def revoke_signing_key(key_id: str, is_sure: bool, is_json: bool) -> None:
    """Revoke a signing key, for good. What it signed and was approved goes on to serve."""
    _, _, web = load_web()
    if not is_sure:
        if not is_interactive():
            raise click.UsageError("Say --yes where nobody can be asked.")
        question = "Uploads that it signs are refused from now on. Revoke it?"
        click.confirm(question, abort=True, err=True)
    revoked = web.revoke_signing_key(key_id)
    if is_json:
        answer_json(revoked)
        return
    say(f"Revoked {revoked.get('fingerprint')}. Approved versions that it signed go on to serve.")
